//! The hub's form: the same images as the binary version's. `testdata/make_parquet_fixtures.py` made both files.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::common::server::serve_all;
use tempfile::TempDir;
use wrn_sam_data::Variant::{self, Cifar10, Cifar100};
use wrn_sam_data::{Dataset, Error, Split};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

#[test]
fn images_are_the_same_as_the_binary_versions() {
    for (variant, name, len) in [(Cifar100, "cifar100", 5), (Cifar10, "cifar10", 3)] {
        let parquet = Split::from_parquet(variant, fixture(&format!("{name}.parquet"))).unwrap();
        let binary = Split::read(variant, fixture(&format!("{name}.bin"))).unwrap();
        assert_eq!(parquet.len(), len);
        assert_eq!(parquet.bytes(), binary.bytes());
        assert_eq!((parquet.labels(), parquet.coarse_labels()), (binary.labels(), binary.coarse_labels()));
        // Would not be so if rows and columns were swapped.
        let image = parquet.image(0);
        assert_ne!(image[1], image[32]);
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    let error = |variant: Variant, path: PathBuf| Split::from_parquet(variant, path).unwrap_err().to_string();
    let message = error(Cifar10, fixture("cifar100.parquet"));
    assert!(
        message.ends_with(
            "cifar100.parquet: there is no column `label`; is it of CIFAR-10 on the Hugging Face hub?"
        ),
        "{message}"
    );
    assert!(error(Cifar100, fixture("cifar100.bin")).contains("cifar100.bin: Parquet error"));
    assert!(error(Cifar100, fixture("nothing")).starts_with("cannot open "));
    let whole = fixture("cifar100.parquet");
    let message = Dataset::from_parquet(Cifar100, &whole, &whole).unwrap_err().to_string();
    assert!(message.contains("it has 5 rows, 50000 expected"), "{message}");
}

/// Cut anywhere it is no parquet; a damaged byte gives an error or another image, and does not get as far as to where the
/// parquet crate panics.
#[test]
fn damage_is_no_panic() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("damaged.parquet");
    let bytes = fs::read(fixture("cifar100.parquet")).unwrap();
    for end in (0..bytes.len()).step_by(97) {
        fs::write(&path, &bytes[..end]).unwrap();
        assert!(matches!(Split::from_parquet(Cifar100, &path), Err(Error::Parquet { .. })), "cut at {end}");
    }
    for (at, bits) in (0..bytes.len()).step_by(2).zip([0x01, 0x55, 0x02].into_iter().cycle()) {
        let mut damaged = bytes.clone();
        damaged[at] ^= bits;
        fs::write(&path, &damaged).unwrap();
        if let Err(error) = Split::from_parquet(Cifar100, &path) {
            assert!(!error.to_string().contains("panicked"), "byte {at}, bits {bits:#x}: {error}");
        }
    }
}

/// The commit that the files of a [`Hub`] are of.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a server on this machine, in place of the hub, has of `uoft-cs/cifar100`, and what it was asked.
struct Hub {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// A hub with the list of files `names`, each of which is answered with `file`.
    fn new(names: &'static [&'static str], file: impl Fn(&mut TcpStream) + Send + 'static) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let sink = Arc::clone(&asked);
        let url = serve_all(move |head, stream| {
            let line = head.lines().next().unwrap();
            sink.lock().unwrap().push(line.trim_end_matches(" http/1.1").into());
            let files = "/datasets/uoft-cs/cifar100/resolve/refs%2fconvert%2fparquet/";
            let api = "get /api/datasets/uoft-cs/cifar100/revision/refs%2fconvert%2fparquet ";
            if line.starts_with(api) {
                let siblings: Vec<_> =
                    names.iter().map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
                let siblings = siblings.join(",");
                let json =
                    format!("{{\"id\":\"uoft-cs/cifar100\",\"sha\":\"{COMMIT}\",\"siblings\":[{siblings}]}}");
                say(stream, "200 OK", "Content-Type: application/json\r\n", json.as_bytes());
            } else if line.starts_with(&format!("head {files}")) {
                let tag = if line.contains("train") { "1111" } else { "2222" };
                let headers = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
                say(stream, "200 OK", &headers, b"");
            } else if line.starts_with(&format!("get {files}")) {
                file(stream);
            } else {
                say(stream, "400 Bad Request", "", b"");
            }
        });
        Self { url, asked }
    }

    /// A hub that answers everything with a status.
    fn failing(status: &'static str) -> Self {
        let url = serve_all(move |_, stream| say(stream, status, "", b""));
        Self { url, asked: Arc::default() }
    }
}

const FILES: &[&str] = &["README.md", "cifar100/test/0000.parquet", "cifar100/train/0000.parquet"];

fn say(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let _ =
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
    let _ = stream.write_all(body);
}

/// What a process says that asks the hub at `url`, with its cache in `cache`.
fn ask(url: &str, cache: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "parquet::ask_the_hub", "--ignored", "--nocapture"]);
    for variable in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "HF_TOKEN", "HF_TOKEN_PATH"] {
        command.env_remove(variable).env_remove(variable.to_lowercase());
    }
    command.env("HF_HOME", cache).env("HF_HUB_CACHE", cache).env("HF_ENDPOINT", url);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.contains("OK ") || line.contains("ERROR ")).expect(&text).into()
}

#[test]
#[ignore = "not a test of its own, but what another process runs"]
fn ask_the_hub() {
    match Dataset::from_hub(Cifar100) {
        Ok(cifar) => println!("OK {}", cifar.source),
        Err(error) => println!("ERROR {error}"),
    }
}

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:9";

#[test]
fn what_the_cache_lacks_is_fetched_to_it_once() {
    let bytes = fs::read(fixture("cifar100.parquet")).unwrap();
    let body = bytes.clone();
    let hub = Hub::new(FILES, move |stream| say(stream, "200 OK", "", &body));
    let cache = TempDir::new().unwrap();
    let repository = cache.path().join("datasets--uoft-cs--cifar100");
    let train = format!("snapshots/{COMMIT}/cifar100/train/0000.parquet");
    // The fixture in place of the data set is refused, by name.
    let expected = format!(
        "ERROR {} does not hold CIFAR-100: {train}: it has 5 rows, 50000 expected; remove this folder of the Hugging \
         Face hub's cache to have it fetched again",
        repository.display()
    );
    assert!(ask(&hub.url, cache.path()).ends_with(&expected));
    let test = train.replace("train", "test");
    for file in [&train, &test] {
        assert_eq!(fs::read(repository.join(file)).unwrap(), bytes);
    }
    let asked = hub.asked.lock().unwrap().clone();
    let of = |start: &str| asked.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((of("get /api/"), of("head "), of("get /datasets/"), asked.len()), (1, 2, 2, 5), "{asked:?}");

    // What is cached needs no network.
    assert!(ask(NOBODY, cache.path()).ends_with(&expected));

    // One of the two files is not enough, but it is not fetched again.
    fs::remove_file(repository.join(&test)).unwrap();
    let said = ask(NOBODY, cache.path());
    assert!(said.contains("ERROR cannot get uoft-cs/cifar100 from the Hugging Face hub: "), "{said}");
    fs::remove_file(repository.join("blobs/2222")).unwrap();
    hub.asked.lock().unwrap().clear();
    assert!(ask(&hub.url, cache.path()).ends_with(&expected));
    let asked = hub.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|line| line.starts_with("get /datasets/")).count(), 1, "{asked:?}");
}

#[test]
fn a_hub_that_does_not_give_it_is_named() {
    let nothing = Hub::new(&["README.md"], |_| ());
    for (url, reason) in [
        (NOBODY, "onnection refused"),
        (&Hub::failing("404 Not Found").url, "Revision not found: refs/convert/parquet in uoft-cs/cifar100"),
        (&Hub::failing("500 Oops").url, "HTTP error: 500 Internal Server Error"),
        (&nothing.url, "refs/convert/parquet has no cifar100/{train,test}/0000.parquet"),
    ] {
        let said = ask(url, TempDir::new().unwrap().path());
        let start = "ERROR cannot get uoft-cs/cifar100 from the Hugging Face hub: ";
        assert!(said.contains(start) && said.contains(reason), "{said}");
        assert!(said.ends_with("; check the network, or use another source"), "{said}");
    }
}

#[test]
fn a_file_that_does_not_come_whole_is_no_data() {
    let bytes = fs::read(fixture("cifar100.parquet")).unwrap();
    let cache = TempDir::new().unwrap();
    let half = bytes[..bytes.len() / 2].to_vec();
    let cut = Hub::new(FILES, move |stream| {
        let length = 2 * half.len();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all(&half);
    });
    let said = ask(&cut.url, cache.path());
    assert!(said.contains("ERROR cannot get uoft-cs/cifar100 from the Hugging Face hub: "), "{said}");
    // It is fetched anew.
    let whole = Hub::new(FILES, move |stream| say(stream, "200 OK", "", &bytes));
    let said = ask(&whole.url, cache.path());
    assert!(said.contains("it has 5 rows, 50000 expected"), "{said}");

    // The hub's client takes a server's excuse for the file.
    let cache = TempDir::new().unwrap();
    let denied = Hub::new(FILES, |stream| say(stream, "403 Forbidden", "", b"not today"));
    let said = ask(&denied.url, cache.path());
    let folder = cache.path().join("datasets--uoft-cs--cifar100");
    let start = format!("ERROR {} does not hold CIFAR-100: Parquet error", folder.display());
    assert!(said.contains(&start) && said.contains("; remove this folder of the "), "{said}");
    fs::remove_dir_all(folder).unwrap();
    assert!(ask(&whole.url, cache.path()).contains("it has 5 rows, 50000 expected"));
}
