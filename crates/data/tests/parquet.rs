//! The hub's form: the same images as the binary version's. `testdata/make_parquet_fixtures.py` made both files.
#![cfg(feature = "hub")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use wrn_sam_data::Variant::{self, Cifar10, Cifar100};
use wrn_sam_data::{Cifar, Error, Split};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

#[test]
fn images_are_the_same_as_the_binary_versions() {
    for (variant, name, len) in [(Cifar100, "cifar100", 5), (Cifar10, "cifar10", 3)] {
        let parquet = Split::from_parquet(variant, fixture(&format!("{name}.parquet"))).unwrap();
        let binary = Split::read(variant, fixture(&format!("{name}.bin"))).unwrap();
        assert_eq!(parquet.len(), len);
        assert_eq!(parquet.images(), binary.images());
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
            "cifar100.parquet: row 0: there is no column `label`; is it of CIFAR-10 on the Hugging Face hub?"
        ),
        "{message}"
    );
    assert!(error(Cifar100, fixture("cifar100.bin")).contains("cifar100.bin: Parquet error"));
    assert!(error(Cifar100, fixture("nothing")).starts_with("cannot open "));
    let whole = fixture("cifar100.parquet");
    let message = Cifar::from_parquet(Cifar100, &whole, &whole).unwrap_err().to_string();
    assert!(message.contains("it has 5 rows, 50000 expected"), "{message}");

    // Cut anywhere it is no parquet; a damaged byte gives an error or another image, never a panic.
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("damaged.parquet");
    let bytes = fs::read(&whole).unwrap();
    for end in (0..bytes.len()).step_by(97) {
        fs::write(&path, &bytes[..end]).unwrap();
        assert!(matches!(Split::from_parquet(Cifar100, &path), Err(Error::Parquet { .. })), "cut at {end}");
    }
    for at in (0..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        fs::write(&path, &damaged).unwrap();
        let _ = Split::from_parquet(Cifar100, &path);
    }
}

/// A cache as the hub's clients keep it, with the fixture in place of the data set: what is cached needs no network.
#[test]
fn the_hub_is_asked_for_what_its_cache_has_not() {
    let cache = TempDir::new().unwrap();
    let ask = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "ask_the_hub", "--ignored", "--nocapture"]);
        command.env("HF_HUB_CACHE", cache.path()).env("HF_ENDPOINT", "http://127.0.0.1:9");
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let said = ask();
    assert!(said.contains("ERROR cannot get uoft-cs/cifar100 from the Hugging Face hub: "), "{said}");
    assert!(said.contains("; check the network, or use another source"), "{said}");

    let repository = cache.path().join("datasets--uoft-cs--cifar100");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir_all(repository.join("refs/refs/convert")).unwrap();
    fs::write(repository.join("refs/refs/convert/parquet"), commit).unwrap();
    for split in ["train", "test"] {
        let folder = repository.join("snapshots").join(commit).join("cifar100").join(split);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(fixture("cifar100.parquet"), folder.join("0000.parquet")).unwrap();
    }
    let said = ask();
    let expected = "cifar100/train/0000.parquet: it has 5 rows, 50000 expected";
    assert!(said.contains("ERROR ") && said.contains(expected), "{said}");
}

#[test]
#[ignore = "not a test of its own, but what another process runs"]
fn ask_the_hub() {
    match Cifar::from_hub(Cifar100) {
        Ok(cifar) => println!("OK {}", cifar.source),
        Err(error) => println!("ERROR {error}"),
    }
}
