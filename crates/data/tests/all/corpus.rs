//! What the fuzz targets began from, and everything they ever found: each file must be read, or refused, in order.

use std::fs;
use std::path::Path;

use wrn_sam_data::{Dataset, IMAGE_BYTES, Split, Variant};

/// The files of a target by name, sorted.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The names of the files that one of the two variants can be read from.
fn readable(target: &str, read: impl Fn(Variant, &[u8]) -> Option<Split>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, bytes) in corpus(target) {
        for variant in [Variant::Cifar10, Variant::Cifar100] {
            if let Some(split) = read(variant, &bytes) {
                assert!(split.len() * IMAGE_BYTES <= bytes.len(), "{name}");
                let in_range = |label: &u8| usize::from(*label) < variant.classes();
                assert!(split.labels().iter().all(in_range), "{name}");
                names.push(name.clone());
            }
        }
    }
    names
}

#[test]
fn binary() {
    let read = |variant, bytes: &[u8]| Split::from_binary(variant, bytes, "corpus").ok();
    assert_eq!(readable("binary", read), ["cifar10", "cifar100"]);
}

#[test]
fn python() {
    let read = |variant, bytes: &[u8]| Split::from_python(variant, bytes, "corpus").ok();
    assert_eq!(readable("python", read), ["cifar10", "cifar100", "empty10", "empty100", "p3", "p4"]);
}

#[test]
fn archive() {
    for (name, bytes) in corpus("archive") {
        for variant in [Variant::Cifar10, Variant::Cifar100] {
            let read = Dataset::from_archive_reader(variant, &bytes[..], &name);
            assert!(read.is_err(), "{name} is no {variant}");
        }
    }
}
