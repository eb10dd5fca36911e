//! Downloads from a server on this machine: a whole file is kept, and nothing else.

mod processes;
mod resume;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crate::common::server::{self, Answer, answer};
use crate::common::{RECORD, file, gzip, md5, tar};
use tempfile::TempDir;
use wrn_sam_data::download::{DownloadOptions, DownloadProgress, download};
use wrn_sam_data::{Dataset, Error, Variant};

/// What a broken download leaves.
const PART: &str = ".cifar-100-binary.tar.gz.part";

/// The address of a file on a server that lets each of `answers` deal with one request.
fn serve_each(answers: Vec<Answer>) -> String {
    server::serve_each(answers) + "/cifar-100-binary.tar.gz"
}

/// A server that lets `answer` deal with one request.
fn serve(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> String {
    serve_each(vec![Box::new(move |_, stream| answer(stream))])
}

/// Sends the whole file's head and `sent` of its bytes.
fn begin(bytes: Vec<u8>, sent: usize, tag: &'static str) -> Answer {
    Box::new(move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\n{tag}Content-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(&bytes[..sent]);
    })
}

/// Insists on being asked for the bytes from `start` on, of the file called `if_range` if that is not empty, and
/// sends them.
fn go_on(bytes: Vec<u8>, start: usize, if_range: &'static str) -> Answer {
    Box::new(move |head, stream| {
        let conditional = head.contains("if-range");
        let asked = head.contains(&format!("range: bytes={start}-\r\n"))
            && if if_range.is_empty() {
                !conditional
            } else {
                head.contains(&format!("if-range: {if_range}\r\n"))
            };
        if !asked {
            let _ = write!(stream, "HTTP/1.1 400 {head:?}\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let (last, total) = (bytes.len() - 1, bytes.len());
        let _ =
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}\r\n");
        let _ = write!(stream, "Content-Length: {}\r\n\r\n", total - start);
        let _ = stream.write_all(&bytes[start..]);
    })
}

/// Sends an empty answer with a status.
fn status(status: &'static str) -> Answer {
    Box::new(move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    })
}

/// A server that announces `length` bytes and sends `body`.
fn serve_file(length: usize, body: Vec<u8>) -> String {
    serve(move |stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all(&body);
    })
}

/// A small archive, and its MD5.
fn archive() -> (Vec<u8>, String) {
    let bytes = gzip(&tar(&[
        file("cifar-100-binary/train.bin", &[1; 3 * RECORD]),
        file("cifar-100-binary/test.bin", &[2; RECORD]),
        file("cifar-100-binary/unknown", b"left out"),
    ]));
    let md5 = md5(&bytes);
    (bytes, md5)
}

fn options(url: impl Into<String>) -> DownloadOptions {
    let mut options = DownloadOptions::new(Variant::Cifar100).with_url(url, archive().1);
    options.connect_timeout = Duration::from_millis(1500);
    options.stall_timeout = Duration::from_millis(300);
    options.with_retries(0)
}

/// A server of an archive, which is what is asked for.
fn serve_as(bytes: Vec<u8>) -> DownloadOptions {
    let md5 = md5(&bytes);
    options("").with_url(serve_file(bytes.len(), bytes), md5)
}

/// The error of a download into a folder with a file in it, which must be all that is in it afterwards.
fn failure(options: &DownloadOptions) -> Error {
    failure_that_leaves(&[], options)
}

/// As [`failure`], with other files left, too.
fn failure_that_leaves(others: &[&str], options: &DownloadOptions) -> Error {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("precious"), "kept").unwrap();
    let error = download(dir.path(), options).unwrap_err();
    assert_eq!(names(dir.path()), [others, &["precious"]].concat());
    assert_eq!(fs::read_to_string(dir.path().join("precious")).unwrap(), "kept");
    // Nothing of it is taken for data.
    let opened = Dataset::open(Variant::Cifar100, dir.path());
    assert!(matches!(opened, Err(Error::NoData { .. })), "{opened:?}");
    error
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_archive_is_fetched_checked_and_unpacked() {
    let (bytes, _) = archive();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let mut options = options(serve_file(bytes.len(), bytes.clone()));
    options.progress = Some(Arc::new(move |progress| sink.lock().unwrap().push(progress)));
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("new/data");

    let folder = download(&dir, &options).unwrap();
    assert_eq!(folder, dir.join("cifar-100-binary"));
    assert_eq!(names(&dir), ["cifar-100-binary"]);
    assert_eq!(names(&folder), ["test.bin", "train.bin"]);
    assert_eq!(fs::read(folder.join("train.bin")).unwrap(), [1; 3 * RECORD]);
    let total = Some(bytes.len() as u64);
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!((last.received, last.total), (bytes.len() as u64, total));

    // It is not CIFAR-100's size, so it is not taken for CIFAR-100, and not overwritten either.
    let message = download(&dir, &options).unwrap_err().to_string();
    assert!(message.contains("cifar-100-binary is already there but not whole ("), "{message}");
    assert!(
        message.ends_with(
            "train.bin is cut short in record 3: 153700000 bytes expected \
        (50000 records of 3074), 9222 found; get the file again); move it away or delete it first"
        ),
        "{message}"
    );
    assert_eq!(names(&folder), ["test.bin", "train.bin"]);
}

#[test]
fn what_is_already_whole_is_not_fetched() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("cifar-100-binary");
    fs::create_dir(&folder).unwrap();
    for (name, records) in [("train.bin", 50_000), ("test.bin", 10_000)] {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_len(records * RECORD as u64).unwrap();
    }
    assert_eq!(download(dir.path(), &options("http://127.0.0.1:1/nothing")).unwrap(), folder);
}

#[test]
fn an_http_error_is_named() {
    let url = serve(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    let message = failure(&options(url.clone())).to_string();
    assert_eq!(message, format!("{url} answered with HTTP status 404 instead of the file"));
    let url = serve(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    });
    assert!(matches!(failure(&options(url)), Error::Status { status: 500, .. }));
}

#[test]
fn a_wrong_checksum_is_refused() {
    let (mut bytes, md5) = archive();
    bytes[20] ^= 1;
    let message = failure(&options(serve_file(bytes.len(), bytes))).to_string();
    assert!(
        message.contains(&format!(", {md5} expected: the file is damaged or is another file")),
        "{message}"
    );
}

#[test]
fn a_file_that_is_cut_off_is_refused() {
    let (bytes, _) = archive();
    let (length, half) = (bytes.len(), bytes.len() / 2);
    let url = serve_file(length, bytes[..half].to_vec());
    let message = failure_that_leaves(&[PART], &options(url.clone())).to_string();
    assert!(message.starts_with(&format!("{url} was cut off after {half} of {length} bytes (")), "{message}");
    assert!(message.ends_with("); try again"), "{message}");
}

#[test]
fn a_stalled_server_is_given_up() {
    let (bytes, _) = archive();
    let url = serve(move |stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(&bytes[..100]);
        // Until the other side hangs up.
        let _ = stream.read(&mut [0]);
    });
    let message = failure_that_leaves(&[PART], &options(url.clone())).to_string();
    assert_eq!(message, format!("{url} sent nothing for 0.3 s after 100 bytes; try again"));
}

#[test]
fn a_silent_server_is_given_up() {
    let url = serve(|stream| {
        let _ = stream.read(&mut [0]);
    });
    let mut options = options(url.clone());
    options.connect_timeout = Duration::from_millis(400);
    options.stall_timeout = Duration::from_secs(60);
    let message = failure(&options).to_string();
    assert!(message.starts_with(&format!("cannot reach {url}: ")), "{message}");
    assert!(message.ends_with("; check the network, or unpack the archive by hand"), "{message}");
}

#[test]
fn no_server_is_an_error_and_makes_no_folder() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("data");
    let message = download(&dir, &options(format!("http://127.0.0.1:{port}/"))).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot reach http://127.0.0.1:{port}/: ")), "{message}");
    assert!(!dir.exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let (bytes, _) = archive();
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("file");
    fs::write(&dir, "not a folder").unwrap();
    let message = download(&dir, &options(serve_file(bytes.len(), bytes))).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot create {}: ", dir.display())), "{message}");
    assert_eq!(fs::read_to_string(&dir).unwrap(), "not a folder");
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let url = serve_file(1 << 40, vec![0; 1000]);
    let message = failure(&options(url.clone())).to_string();
    assert_eq!(message, format!("{url} is larger than the 200000000 bytes allowed"));
    // Also where the length is not announced.
    let url = serve(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(&[0; 5000]);
    });
    let options = options(url).with_max_bytes(4999);
    assert!(matches!(failure(&options), Error::DownloadTooLarge { limit: 4999, .. }));
}

#[test]
fn an_archive_of_another_content_is_not_kept() {
    let bytes = gzip(&tar(&[file("cifar-100-binary/train.bin", &[0; RECORD])]));
    let options = serve_as(bytes);
    let message = failure(&options).to_string();
    assert!(message.contains("test.bin is missing"), "{message}");
}

#[test]
fn an_archive_that_is_not_safe_is_not_unpacked() {
    let dot = file("../escaped", b"out");
    let bomb_part = vec![0; 30 << 20];
    let bomb: Vec<_> = (0..10).map(|_| file("filler", &bomb_part)).collect();
    for (entries, part) in [(vec![dot], "leads out of the folder"), (bomb, "it unpacks to more than")] {
        let mut all = vec![file("cifar-100-binary/train.bin", &[1; RECORD])];
        all.extend(entries);
        let bytes = gzip(&tar(&all));
        let options = serve_as(bytes);
        let message = failure(&options).to_string();
        assert!(message.contains(part), "{message}");
    }
}
