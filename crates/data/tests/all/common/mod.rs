//! Archives made by hand, a server, and where a copy of the real CIFAR-100 may be.
#![allow(dead_code, reason = "features decide what is used")]

pub mod pickle;
pub mod server;

use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

pub const RECORD: usize = 3074;

/// An entry of an archive: its kind, its path exactly as given, and its bytes.
pub struct Entry<'a>(pub EntryType, pub &'a str, pub &'a [u8]);

pub fn file<'a>(path: &'a str, bytes: &'a [u8]) -> Entry<'a> {
    Entry(EntryType::Regular, path, bytes)
}

/// A tar of the entries, written without any of the checks that tools have.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Entry(kind, path, content) in entries {
        bytes.extend(header(*kind, path, content.len() as u64).as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

pub fn header(kind: EntryType, path: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As 32 hexadecimal digits.
pub fn md5(bytes: &[u8]) -> String {
    use md5::Digest;
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder with the real CIFAR-100's binary version: `cifar-100-binary` in `$WRN_SAM_EXTRA`. Says so where there is
/// none.
pub fn real_cifar100() -> Option<PathBuf> {
    let Some(extra) = std::env::var_os("WRN_SAM_EXTRA") else {
        println!("skipped: WRN_SAM_EXTRA is not set");
        return None;
    };
    let dir = PathBuf::from(extra).join("cifar-100-binary");
    if !dir.join("train.bin").exists() {
        println!("skipped: no train.bin in {}", dir.display());
        return None;
    }
    Some(dir)
}
