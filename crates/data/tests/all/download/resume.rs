//! Downloads that were interrupted.

use super::*;

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
