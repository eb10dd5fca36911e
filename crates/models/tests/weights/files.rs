//! Files of every kind, whole, damaged and mistaken for weights.

use std::path::{Path, PathBuf};

use wrn_sam_models::{Parameters, WideResNetConfig, read_metadata, save_state_dict};

use super::{bytes, network, refuses, state, trained, unit};

/// Files that tests/pth/make.py wrote with PyTorch.
fn pth(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth").join(name)
}

/// The values that make.py gives each file.
fn assert_is_the_units(parameters: &Parameters, counter: i64) {
    let mut number = 0;
    for (name, _, var) in parameters.named() {
        if name.ends_with("num_batches_tracked") {
            assert_eq!(var.to_scalar::<i64>().unwrap(), counter, "{name}");
            continue;
        }
        let expected = (0..var.elem_count()).map(|i| (i + 1 + number) as f32 / 8.0).collect::<Vec<_>>();
        assert_eq!(var.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected, "{name}");
        number += 1;
    }
    assert_eq!(number, 10);
}

#[test]
fn pytorch_files_are_read() {
    for name in
        ["plain.pth", "protocol4.pth", "checkpoint.pth", "parameters.pt", "f16.pth", "bf16.pth", "f64.pth"]
    {
        let parameters = unit();
        parameters.load(pth(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_is_the_units(&parameters, 7);
        assert_eq!(read_metadata(pth(name)).unwrap(), None);
    }
    let parameters = unit();
    parameters.load(pth("views.pth")).unwrap();
    assert_is_the_units(&parameters, 0);
}

#[test]
fn pytorch_files_without_a_state_dict_are_called_what_they_are() {
    let parameters = unit();
    refuses(
        parameters.load(pth("module.pth")).unwrap_err(),
        &["torch.nn.modules.batchnorm.BatchNorm2d", "\"net\""],
    );
    refuses(
        parameters.load(pth("legacy.pth")).unwrap_err(),
        &["legacy.pth is a PyTorch file", "before PyTorch 1.6"],
    );
}

/// A checksum guards every byte that matters, so that a damaged file is refused or the damage is without effect.
#[test]
fn a_damaged_pytorch_file_never_loads_wrong_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    let whole = std::fs::read(pth("plain.pth")).unwrap();
    let parameters = unit();
    let before = bytes(&parameters);
    let mut refused = 0;
    for at in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        match parameters.load(&path) {
            Ok(()) => {
                assert_is_the_units(&parameters, 7);
                parameters.load_state(&state(&unit())).unwrap();
            }
            Err(_) => refused += 1,
        }
        assert_eq!(bytes(&parameters), before, "byte {at}");
    }
    assert!(refused > whole.len() / 12, "{refused}");
    for length in (0..whole.len()).step_by(37) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = parameters.load(&path).unwrap_err().to_string();
        assert!(error.contains("empty") || error.contains("cut short"), "{length}: {error}");
    }
    assert_eq!(bytes(&parameters), before);
}

#[test]
fn files_that_are_no_weights_are_called_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let parameters = unit();
    for (content, part) in [
        (&b""[..], "an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer, not the weights",
        ),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\x1f\x8b\x08\0\0\0\0\0\x02\x03", "gzip"),
        (b"Entry not found", "text that begins with \"Entry not found\""),
        (b"PK\x03\x04 and no more", "zip archive is cut short"),
        (b"\xff\xff\xff\xff\xff\0\0\0{", "header too large"),
        (b"\xff\xfe\xff\xff\xff\0\xff\0{", "neither safetensors nor a PyTorch file"),
    ] {
        std::fs::write(&path, content).unwrap();
        refuses(parameters.load(&path).unwrap_err(), &["model.safetensors", part]);
        refuses(WideResNetConfig::from_state_dict(&path).unwrap_err(), &["model.safetensors", part]);
        refuses(read_metadata(&path).unwrap_err(), &["model.safetensors", part]);
    }
    refuses(parameters.load(folder.path()).unwrap_err(), &["is a folder"]);
    refuses(parameters.load(folder.path().join("none")).unwrap_err(), &["cannot read", "none"]);
}

#[test]
fn a_text_is_saved_with_the_values_and_equal_files_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let (_, parameters) = trained();
    let text = "classes = [\"a \\\"quoted\\\" one\", \"café\"]\n";
    save_state_dict(&a, &parameters.state().unwrap(), Some(text)).unwrap();
    save_state_dict(&b, &parameters.state().unwrap(), Some(text)).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    assert_eq!(read_metadata(&a).unwrap().as_deref(), Some(text));
    let (_, loaded) = network(0);
    loaded.load(&a).unwrap();
    assert_eq!(bytes(&loaded), bytes(&parameters));
    parameters.save(&a).unwrap();
    assert_eq!(read_metadata(&a).unwrap(), None);
}
