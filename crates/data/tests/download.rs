//! Downloads from a server on this machine: what comes whole is kept, and nothing else.
#![cfg(feature = "download")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{RECORD, file, gzip, tar};
use md5::{Digest, Md5};
use tempfile::TempDir;
use wrn_sam_data::Error;
use wrn_sam_data::download::{DownloadOptions, Progress, download};

/// The address of a server that lets `answer` deal with one request, whose head it has read.
fn serve(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/cifar-100-binary.tar.gz", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        answer(&mut stream);
    });
    url
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
    let md5 = Md5::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes, md5)
}

fn options(url: String) -> DownloadOptions {
    DownloadOptions {
        url,
        md5: archive().1,
        connect_timeout: Duration::from_millis(1500),
        stall_timeout: Duration::from_millis(300),
        ..DownloadOptions::default()
    }
}

/// The error of a download into a folder with a file in it, which must be all that is in it afterwards.
fn failure(options: &DownloadOptions) -> Error {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("precious"), "kept").unwrap();
    let error = download(dir.path(), options).unwrap_err();
    assert_eq!(names(dir.path()), ["precious"]);
    assert_eq!(fs::read_to_string(dir.path().join("precious")).unwrap(), "kept");
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
    assert_eq!(seen.lock().unwrap().last(), Some(&Progress { received: bytes.len() as u64, total }));

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
    assert_eq!(download(dir.path(), &options("http://127.0.0.1:1/nothing".into())).unwrap(), folder);
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
    assert!(message.contains(&format!(", {md5} expected: the file is damaged or another")), "{message}");
}

#[test]
fn a_file_that_is_cut_off_is_refused() {
    let (bytes, _) = archive();
    let (length, half) = (bytes.len(), bytes.len() / 2);
    let url = serve_file(length, bytes[..half].to_vec());
    let message = failure(&options(url.clone())).to_string();
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
    let start = Instant::now();
    let message = failure(&options(url.clone())).to_string();
    assert_eq!(message, format!("{url} sent nothing for 0.3 s after 100 bytes; try again"));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_silent_server_is_given_up() {
    let url = serve(|stream| {
        let _ = stream.read(&mut [0]);
    });
    let mut options = options(url.clone());
    options.connect_timeout = Duration::from_millis(400);
    options.stall_timeout = Duration::from_secs(60);
    let start = Instant::now();
    let message = failure(&options).to_string();
    assert!(message.starts_with(&format!("cannot reach {url}: ")), "{message}");
    assert!(message.ends_with("; check the network, or unpack the archive by hand"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(3));
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
    let options = DownloadOptions { max_bytes: 4999, ..options(url) };
    assert!(matches!(failure(&options), Error::DownloadTooLarge { limit: 4999, .. }));
}

#[test]
fn an_archive_of_another_content_is_not_kept() {
    let bytes = gzip(&tar(&[file("cifar-100-binary/train.bin", &[0; RECORD])]));
    let md5 = Md5::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let options = DownloadOptions { md5, ..options(serve_file(bytes.len(), bytes)) };
    let message = failure(&options).to_string();
    assert!(message.contains("test.bin is missing"), "{message}");
}
