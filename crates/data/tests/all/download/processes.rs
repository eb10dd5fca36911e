//! Several threads and processes, a full disk, and the environment.

use super::*;

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
    ["--exact", "download::processes::child_process", "--ignored", "--nocapture", "--test-threads=1"];

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
