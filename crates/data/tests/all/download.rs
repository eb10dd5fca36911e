//! Downloads from a server on this machine: what comes whole is kept, and nothing else.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::server::{self, Answer, answer};
use crate::common::{RECORD, file, gzip, md5, tar};
use tempfile::TempDir;
use wrn_sam_data::download::{DownloadOptions, DownloadProgress, download};
use wrn_sam_data::{Cifar, Error, Variant};

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
    let opened = Cifar::open(Variant::Cifar100, dir.path());
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
    assert!(message.contains(&format!(", {md5} expected: the file is damaged or another")), "{message}");
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
    let start = Instant::now();
    let message = failure_that_leaves(&[PART], &options(url.clone())).to_string();
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

/// A folder in which a download broke after half of the file, whose server then answers with `next`.
fn broken(tag: &'static str, mut next: Vec<Answer>) -> (TempDir, DownloadOptions) {
    let (bytes, _) = archive();
    let half = bytes.len() / 2;
    next.insert(0, begin(bytes, half, tag));
    let options = options(serve_each(next));
    let dir = TempDir::new().unwrap();
    let error = download(dir.path(), &options).unwrap_err();
    assert!(matches!(error, Error::CutOff { received, .. } if received == half as u64), "{error}");
    assert_eq!(names(dir.path()), [PART]);
    (dir, options)
}

/// Downloads what is missing; it must be whole, and all that is in the folder.
fn succeeds(dir: &TempDir, options: &DownloadOptions) {
    let folder = download(dir.path(), options).unwrap();
    assert_eq!(names(dir.path()), ["cifar-100-binary"]);
    assert_eq!(fs::read(folder.join("train.bin")).unwrap(), [1; 3 * RECORD]);
}

#[test]
fn a_broken_download_is_gone_on_with() {
    let (bytes, _) = archive();
    let half = bytes.len() / 2;
    for (tag, if_range) in [
        ("", ""),
        ("ETag: \"one\"\r\n", "\"one\""),
        // A weak tag does not promise equal bytes.
        ("ETag: W/\"one\"\r\n", ""),
        (
            "ETag: W/\"one\"\r\nLast-Modified: Wed, 18 Feb 2009 04:10:56 GMT\r\n",
            "wed, 18 feb 2009 04:10:56 gmt",
        ),
    ] {
        let (dir, mut options) = broken(tag, vec![go_on(bytes.clone(), half, if_range)]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        options.progress = Some(Arc::new(move |progress| sink.lock().unwrap().push(progress)));
        succeeds(&dir, &options);
        let (total, seen) = (bytes.len() as u64, seen.lock().unwrap());
        assert!(seen[0].received > half as u64);
        let last = seen.last().unwrap();
        assert_eq!((last.received, last.total), (total, Some(total)));
    }
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let (bytes, _) = archive();
    let (third, half) = (bytes.len() / 3, bytes.len() / 2);
    let part = {
        let bytes = bytes.clone();
        move |head: &str, stream: &mut TcpStream| {
            assert!(head.contains(&format!("range: bytes={third}-\r\n")));
            let (last, total) = (bytes.len() - 1, bytes.len());
            let _ = write!(stream, "HTTP/1.1 206 \r\nContent-Range: bytes {third}-{last}/{total}\r\n");
            let _ = write!(stream, "Content-Length: {}\r\n\r\n", total - third);
            let _ = stream.write_all(&bytes[third..half]);
        }
    };
    let answers: Vec<Answer> =
        vec![begin(bytes.clone(), third, ""), Box::new(part), go_on(bytes.clone(), half, "")];
    let options = options(serve_each(answers)).with_retries(2);
    succeeds(&TempDir::new().unwrap(), &options);

    // An upper-case MD5 is the same number.
    let whole = begin(bytes.clone(), bytes.len(), "");
    let mut upper = self::options(serve_each(vec![whole]));
    upper.md5.make_ascii_uppercase();
    succeeds(&TempDir::new().unwrap(), &upper);

    // Not for ever.
    let answers =
        vec![begin(bytes.clone(), third, ""), begin(bytes.clone(), half, ""), begin(bytes, half, "")];
    let options = self::options(serve_each(answers)).with_retries(1);
    assert!(matches!(failure_that_leaves(&[PART], &options), Error::CutOff { .. }));
}

/// Where nothing came, another try would only ask again for the same: it is an error at once.
#[test]
fn a_connection_that_gave_nothing_is_not_made_again() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let url = server::serve_all(move |_, stream| {
        *count.lock().unwrap() += 1;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let options = options(url).with_retries(3);
    assert!(matches!(failure(&options), Error::CutOff { received: 0, .. }));
    assert_eq!(*asked.lock().unwrap(), 1);
}

/// What is there of another file is not taken for the beginning of this one, whatever differs.
#[test]
fn a_part_of_something_else_is_not_taken_over() {
    let (bytes, md5) = archive();
    let half = bytes.len() / 2;
    for same_url in [true, false] {
        let whole = begin(bytes.clone(), bytes.len(), "");
        let (dir, mut options) = broken("", vec![whole]);
        if same_url {
            options.md5 = crate::common::md5(b"another file");
        } else {
            options.url = options.url.replace("/cifar", "/other/cifar");
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        options.progress =
            Some(Arc::new(move |progress: DownloadProgress| sink.lock().unwrap().push(progress.received)));
        match download(dir.path(), &options) {
            Ok(_) => assert!(!same_url),
            Err(error) => assert!(matches!(error, Error::Checksum { found, .. } if found == md5)),
        }
        // It began at the first byte: one read gives less than half.
        assert!(
            seen.lock().unwrap()[0] <= bytes.len() as u64 && !seen.lock().unwrap().contains(&(half as u64))
        );
    }
}

#[test]
fn a_server_that_sends_no_parts_sends_all() {
    let (bytes, _) = archive();
    let whole = begin(bytes.clone(), bytes.len(), "");
    let (dir, options) = broken("", vec![whole]);
    succeeds(&dir, &options);
}

#[test]
fn a_file_that_changed_on_the_server_is_fetched_anew() {
    let (bytes, _) = archive();
    // The first part is of another file; the server does not notice.
    let mut other = bytes.clone();
    other[30] ^= 1;
    let half = bytes.len() / 2;
    let answers =
        vec![begin(other, half, ""), go_on(bytes.clone(), half, ""), begin(bytes.clone(), bytes.len(), "")];
    let options = options(serve_each(answers));
    let dir = TempDir::new().unwrap();
    download(dir.path(), &options).unwrap_err();
    succeeds(&dir, &options);

    // The file is shorter now than what is there.
    let whole = begin(bytes.clone(), bytes.len(), "");
    let (dir, options) = broken("", vec![status("416 Range Not Satisfiable"), whole]);
    succeeds(&dir, &options);

    // Another part than was asked for.
    let wrong: Answer = Box::new(|_, stream| {
        let _ =
            stream.write_all(b"HTTP/1.1 206 \r\nContent-Range: bytes 7-9/99\r\nContent-Length: 3\r\n\r\nabc");
    });
    let (dir, options) = broken("", vec![wrong, go_on(bytes, half, "")]);
    let message = download(dir.path(), &options).unwrap_err().to_string();
    assert!(message.contains("the server sent another part than was asked for"), "{message}");
    succeeds(&dir, &options);
}

#[test]
fn what_came_survives_a_server_that_fails() {
    let (bytes, _) = archive();
    let half = bytes.len() / 2;
    let (dir, options) =
        broken("", vec![status("500 Oops"), status("404 Not Found"), go_on(bytes, half, "")]);
    for expected in [500, 404] {
        let error = download(dir.path(), &options).unwrap_err();
        assert!(matches!(error, Error::Status { status, .. } if status == expected), "{error}");
        assert_eq!(names(dir.path()), [PART]);
    }
    succeeds(&dir, &options);
}

#[test]
fn a_length_that_is_wrong_is_refused() {
    let (bytes, _) = archive();
    let length = bytes.len();
    // Longer than it is: it seems cut off.
    let message = failure_that_leaves(&[PART], &options(serve_file(length + 5, bytes.clone()))).to_string();
    assert!(message.contains(&format!("was cut off after {length} of {} bytes", length + 5)), "{message}");
    // Shorter: what was said is what is taken, and has another sum.
    assert!(matches!(failure(&options(serve_file(length - 5, bytes))), Error::Checksum { .. }));
}

#[test]
fn two_threads_fetch_once() {
    let (bytes, _) = whole_archive();
    // A second request would find nobody.
    let slow: Answer = Box::new(move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let _ = stream.write_all(first);
        thread::sleep(Duration::from_millis(150));
        let _ = stream.write_all(second);
    });
    let options = self::options("").with_url(serve_each(vec![slow]), whole_archive().1);
    let dir = TempDir::new().unwrap();
    thread::scope(|scope| {
        let both = [0; 2].map(|_| scope.spawn(|| download(dir.path(), &options).unwrap()));
        for one in both {
            assert_eq!(one.join().unwrap(), dir.path().join("cifar-100-binary"));
        }
    });
    assert_eq!(names(dir.path()), ["cifar-100-binary"]);
}

/// An archive of the official sizes, all zeros, and its MD5.
fn whole_archive() -> (Vec<u8>, String) {
    static WHOLE: OnceLock<(Vec<u8>, String)> = OnceLock::new();
    let make = || {
        let (train, test) = (vec![0; 50_000 * RECORD], vec![0; 10_000 * RECORD]);
        let entries = [file("cifar-100-binary/train.bin", &train), file("cifar-100-binary/test.bin", &test)];
        let bytes = gzip(&tar(&entries));
        let md5 = md5(&bytes);
        (bytes, md5)
    };
    WHOLE.get_or_init(make).clone()
}

/// The arguments of this test binary that make it a process which downloads.
const CHILD: [&str; 5] =
    ["--exact", "download::child_process", "--ignored", "--nocapture", "--test-threads=1"];

/// A process that downloads to `dir`, to be run by a shell after `before`.
#[cfg(unix)]
fn child(before: &str, dir: &Path, options: &DownloadOptions) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before} \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(CHILD);
    for variable in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(variable).env_remove(variable.to_lowercase());
    }
    command.env_remove("WRN_SAM_TIMEOUT");
    command.env("CHILD_DIR", dir).env("CHILD_URL", &options.url).env("CHILD_MD5", &options.md5);
    command
}

#[test]
#[ignore = "not a test of its own, but what another process runs"]
fn child_process() {
    let [Ok(dir), Ok(url), Ok(md5)] = ["CHILD_DIR", "CHILD_URL", "CHILD_MD5"].map(std::env::var) else {
        return;
    };
    let options = match DownloadOptions::from_env(Variant::Cifar100) {
        Ok(options) => options.with_url(url, md5).with_retries(0),
        Err(error) => return println!("ERROR {error}"),
    };
    match download(Path::new(&dir), &options) {
        Ok(folder) => println!("OK {}", folder.display()),
        Err(error) => println!("ERROR {error}"),
    }
}

/// What a child said.
#[cfg(unix)]
fn said(output: std::process::Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said =
        text.lines().find_map(|line| line.split_once("OK ").or(line.split_once("ERROR ")).map(|_| line));
    said.unwrap_or_else(|| panic!("{output:?}")).into()
}

#[cfg(unix)]
#[test]
fn two_processes_fetch_once() {
    let (bytes, md5) = whole_archive();
    let slow: Answer = Box::new(move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let _ = stream.write_all(first);
        thread::sleep(Duration::from_millis(250));
        let _ = stream.write_all(second);
    });
    let options = self::options("").with_url(serve_each(vec![slow]), md5);
    let dir = TempDir::new().unwrap();
    let piped = |mut command: Command| command.stdout(Stdio::piped()).spawn().unwrap();
    let both = [0; 2].map(|_| piped(child("exec", dir.path(), &options)));
    for one in both {
        let said = said(one.wait_with_output().unwrap());
        assert!(said.contains("OK ") && said.ends_with("cifar-100-binary"), "{said}");
    }
    assert_eq!(names(dir.path()), ["cifar-100-binary"]);
}

/// A limit on the size of files is met like a full disk: a write comes back with less than it was given.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_is_an_error_and_loses_nothing() {
    let (bytes, md5) = whole_archive();
    // While unpacking, and at once. The unit is 512 or 1024 bytes.
    for blocks in [10_000, 1] {
        let whole = begin(bytes.clone(), bytes.len(), "");
        let options = self::options("").with_url(serve_each(vec![whole]), &md5);
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("precious"), "kept").unwrap();
        // Without its handler the signal would end the process; ignored, the write fails.
        let before = format!("trap '' XFSZ; ulimit -f {blocks};");
        let said = said(child(&before, dir.path(), &options).output().unwrap());
        assert!(said.contains("ERROR cannot "), "{said}");
        assert!(said.contains("File too large"), "{said}");
        let left = names(dir.path());
        assert!(left.iter().all(|name| name == PART || name == "precious"), "{left:?}");
        assert_eq!(fs::read_to_string(dir.path().join("precious")).unwrap(), "kept");

        // With room, it goes on.
        let received = fs::metadata(dir.path().join(PART)).map_or(0, |part| part.len().saturating_sub(4096));
        let rest: Answer = match received as usize {
            0 => begin(bytes.clone(), bytes.len(), ""),
            all if all == bytes.len() => status("416 Range Not Satisfiable"),
            some => go_on(bytes.clone(), some, ""),
        };
        let address = options.url.split('/').nth(2).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        thread::spawn(move || answer(&listener, rest));
        let folder = download(dir.path(), &options).unwrap();
        assert_eq!(fs::metadata(folder.join("train.bin")).unwrap().len(), 50_000 * RECORD as u64);
        assert_eq!(names(dir.path()), ["cifar-100-binary", "precious"]);
    }
}

/// Nobody may write to /proc, not even root.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let (bytes, _) = archive();
    let options = options(serve_file(bytes.len(), bytes));
    for (dir, start) in [("/proc/self/fdinfo", "cannot open "), ("/proc/new", "cannot create /proc/new: ")] {
        let message = download(Path::new(dir), &options).unwrap_err().to_string();
        assert!(message.starts_with(start), "{message}");
    }
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

#[cfg(unix)]
#[test]
fn the_timeout_of_the_environment_is_heeded() {
    let dir = TempDir::new().unwrap();
    let silent = serve(|stream| {
        let _ = stream.read(&mut [0]);
    });
    let ask = |url: String, seconds: &str| {
        let mut child = child("exec", dir.path(), &options(url));
        said(child.env("WRN_SAM_TIMEOUT", seconds).output().unwrap())
    };
    let message = ask(silent, "0.25");
    assert!(message.contains("ERROR cannot reach http://127.0.0.1:"), "{message}");
    assert!(message.contains("imeout") || message.contains("no answer within 0.2"), "{message}");
    let (bytes, _) = archive();
    let stalling = serve(move |stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(&bytes[..100]);
        let _ = stream.read(&mut [0]);
    });
    let message = ask(stalling, "0.5");
    assert!(message.contains("sent nothing for 0.5 s after 100 bytes"), "{message}");
    let message = ask("http://127.0.0.1:1/".into(), "soon");
    assert!(
        message.ends_with("ERROR WRN_SAM_TIMEOUT = soon: must be a number of seconds from 0.001 on"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn proxies_of_the_environment_are_heeded() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heads);
    let refuse: Answer = Box::new(move |head, stream| {
        sink.lock().unwrap().push(head.to_string());
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = serve_each(vec![refuse]);
    let proxy = proxy.strip_suffix("/cifar-100-binary.tar.gz").unwrap();
    let dir = TempDir::new().unwrap();
    let mut asked = child("exec", dir.path(), &options("https://nowhere.invalid/file"));
    let message = said(asked.env("HTTPS_PROXY", proxy).output().unwrap());
    assert!(message.contains("ERROR cannot reach https://nowhere.invalid/file"), "{message}");
    assert!(heads.lock().unwrap()[0].starts_with("connect nowhere.invalid:443 "), "{heads:?}");

    let (bytes, _) = archive();
    let mut direct = child("exec", dir.path(), &options(serve_file(bytes.len(), bytes)));
    direct.env("ALL_PROXY", "http://127.0.0.1:9").env("NO_PROXY", "127.0.0.1");
    let message = said(direct.output().unwrap());
    assert!(message.contains("OK "), "{message}");
}
