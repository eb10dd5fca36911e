//! The Python version: the same images as the binary one's, and nothing that its pickles name is ever called.

use std::fs;
use std::path::Path;

use crate::common::pickle::{Batch, names};
use crate::common::{file, gzip, tar};
use proptest::prelude::*;
use tempfile::TempDir;
use wrn_sam_data::Variant::{self, Cifar10, Cifar100};
use wrn_sam_data::{COARSE_NAMES, Dataset, FINE_NAMES, Format, Origin, Split};

/// `len` images that differ from each other and within.
fn images(len: usize) -> Vec<u8> {
    (0..len * 3072).map(|i| (i * 7 + i / 3072 * 13 + i / 1024) as u8).collect()
}

/// Two images of CIFAR-100.
fn two() -> Batch {
    Batch::cifar100(images(2), vec![99, 7], vec![19, 3])
}

fn read(variant: Variant, bytes: &[u8]) -> wrn_sam_data::Result<Split> {
    Split::from_python(variant, bytes, "train")
}

fn error(bytes: &[u8]) -> String {
    read(Cifar100, bytes).unwrap_err().to_string()
}

#[test]
fn a_batch_is_the_same_as_the_binary_versions() {
    let data = images(5);
    let (fine, coarse) = (vec![0, 99, 5, 7, 50], vec![19, 0, 1, 2, 3]);
    let records: Vec<u8> =
        (0..5).flat_map(|i| [&[coarse[i], fine[i]], &data[i * 3072..][..3072]].concat()).collect();
    let binary = Split::from_binary(Cifar100, &records[..], "train.bin").unwrap();
    for module in ["numpy.core.multiarray", "numpy._core.multiarray"] {
        let batch = Batch { module, ..Batch::cifar100(data.clone(), fine.clone(), coarse.clone()) };
        let python = read(Cifar100, &batch.pickle()).unwrap();
        assert_eq!(python.bytes(), binary.bytes());
        assert_eq!((python.labels(), python.coarse_labels()), (binary.labels(), binary.coarse_labels()));
    }
    let ten = read(Cifar10, &Batch::cifar10(images(2), vec![9, 0]).pickle()).unwrap();
    assert_eq!((ten.labels(), ten.coarse_labels()), (&[9, 0][..], None));
    assert_eq!(ten.bytes(), images(2));
}

/// As `pickle.dumps` of Python 3 writes a batch of one image of zeros in protocol 4.
#[test]
fn python_3_writes_the_same_objects() {
    let mut bytes = b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\
        \x8c\x04data\x94\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\
        \x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94\
        (K\x01K\x01M\x00\x0c\x86\x94h\x05\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94\
        (K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89B\x00\x0c\x00\x00"
        .to_vec();
    bytes.extend([0; 3072]);
    bytes.extend(b"\x94t\x94b\x8c\x0bfine_labels\x94]\x94K*a\x8c\x0dcoarse_labels\x94]\x94K\x07au.");
    let split = read(Cifar100, &bytes).unwrap();
    assert_eq!((split.labels(), split.coarse_labels()), (&[42][..], Some(&[7][..])));
}

#[test]
fn nothing_is_called() {
    // What `pickle.load` would run as a command.
    for call in [
        &b"\x80\x02cos\nsystem\nU\x04true\x85R."[..],
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    ] {
        let message = error(call);
        assert!(
            message.starts_with(
                "train: the pickle names os.system, which no file of CIFAR does; it was not called, at offset"
            ),
            "{message}"
        );
    }
    for (bytes, part) in [
        (
            &b"\x80\x02cnumpy\nndarray\n)R."[..],
            "the pickle makes something that is not an array at offset 18",
        ),
        (b"\x80\x02i", "has the opcode `i`, which no file of CIFAR has, at offset 2"),
        (b"\x80\x05.", "the pickle has protocol 5, 2 to 4 expected at offset 0"),
        (b"\x80\x02K\x01K\x02R.", "the pickle calls something that is not a function"),
    ] {
        let message = error(bytes);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    let after = "; is it of CIFAR-100's Python version? Get the file again";
    let says =
        |batch: Batch, reason: &str| assert_eq!(error(&batch.pickle()), format!("train: {reason}{after}"));
    let labels = |fine: Vec<u8>, coarse: Vec<u8>| vec![("fine_labels", fine), ("coarse_labels", coarse)];
    says(
        Batch { labels: labels(vec![0, 100], vec![0, 0]), ..two() },
        "`fine_labels`[1] is 100, 0 to 99 allowed",
    );
    says(
        Batch { labels: labels(vec![0, 1], vec![20, 0]), ..two() },
        "`coarse_labels`[0] is 20, 0 to 19 allowed",
    );
    says(
        Batch { labels: labels(vec![0], vec![0, 0]), ..two() },
        "it has 2 images with 1 labels and 2 coarse labels, one of each per image expected",
    );
    says(Batch { labels: vec![], ..two() }, "it is not a dictionary with the key `fine_labels`");
    says(Batch { shape: [2, 3071], ..two() }, "`data` does not have the shape [N, 3072]");
    says(Batch { shape: [3, 3072], ..two() }, "`data` has 6144 bytes, 3 times 3072 expected");
    // Its bytes in rows would be other images.
    let fortran = error(&Batch { fortran: true, ..two() }.pickle());
    assert!(
        fortran.starts_with("train: the array is in Fortran order, C order expected, at offset "),
        "{fortran}"
    );
    assert!(error(&Batch { dtype: "f4", ..two() }.pickle()).contains("an array's type is not `u1`"));
    let ten = Batch::cifar10(images(1), vec![9]).pickle();
    assert!(error(&ten).contains("it is not a dictionary with the key `fine_labels`"));
    assert!(error(b"").contains("the pickle ends too early at offset 0"));
    assert!(error(b"\x80\x02NN.").contains("the pickle leaves values behind"));
    let more = [&two().pickle()[..], b"N"].concat();
    assert!(error(&more).contains("bytes follow the pickle's end"));
    // A length of 4 GB with nothing behind it takes no memory.
    assert!(
        error(b"\x80\x02T\xff\xff\xff\xff").contains("a string of 4294967295 bytes, more than it may have")
    );
    assert!(error(b"\x80\x02T\xff\xff\xff\x00").contains("the pickle ends too early"));
    // A million empty lists.
    let lists = [&b"\x80\x02"[..], &[b']'; 1 << 20]].concat();
    assert!(error(&lists).contains("more than 1048576 opcodes"));
}

#[test]
fn depth_and_cycles_do_no_harm() {
    // Half a million tuples in each other, and a list that holds itself.
    let nested = [&b"\x80\x02)"[..], &[b'\x85'; 500_000], b"."].concat();
    assert!(error(&nested).contains("it is not a dictionary"));
    assert!(error(b"\x80\x02]q\x00h\x00ah\x00a.").contains("it is not a dictionary"));
}

/// CIFAR-10 in the official sizes, all zeros but for the marks that tell the parts apart.
fn write_cifar10(folder: &Path) {
    let batch = |mark: u8| {
        let mut data = vec![0; 10_000 * 3072];
        data[5 * 3072] = mark;
        let mut labels = vec![0; 10_000];
        labels[9_999] = mark;
        Batch::cifar10(data, labels).pickle()
    };
    for part in 1..=5 {
        fs::write(folder.join(format!("data_batch_{part}")), batch(part)).unwrap();
    }
    fs::write(folder.join("test_batch"), batch(6)).unwrap();
}

#[test]
fn cifar10_is_put_together_from_its_parts() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("cifar-10-batches-py");
    fs::create_dir(&folder).unwrap();
    write_cifar10(&folder);
    let ten: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    fs::write(folder.join("batches.meta"), names(&[("label_names", &ten)])).unwrap();
    let check = |cifar: Dataset| {
        assert_eq!((cifar.source.variant, cifar.classes(), cifar.train.len()), (Some(Cifar10), 10, 50_000));
        assert_eq!((&cifar.class_names[9][..], cifar.coarse_names.len()), ("class 9", 0));
        for part in 0..5 {
            assert_eq!(cifar.train.image(part * 10_000 + 5)[0], part as u8 + 1);
            assert_eq!(cifar.train.label(part * 10_000 + 9_999), part as u8 + 1);
        }
        assert_eq!((cifar.test.image(5)[0], cifar.test.len()), (6, 10_000));
    };
    let cifar = Dataset::open(Cifar10, dir.path()).unwrap();
    assert_eq!(cifar.source.origin, Origin::Folder { path: folder.clone(), format: Format::Python });
    assert_eq!(cifar.source.files.len(), 7);
    check(cifar);
    let hint = Dataset::open(Cifar100, dir.path()).unwrap_err().to_string();
    assert!(hint.contains("it holds CIFAR-10; ask for CIFAR-10"), "{hint}");

    // In the order in which the official archive has them.
    let order = [
        "batches.meta",
        "data_batch_4",
        "test_batch",
        "data_batch_3",
        "data_batch_2",
        "data_batch_5",
        "data_batch_1",
    ];
    let files =
        order.map(|name| (format!("cifar-10-batches-py/{name}"), fs::read(folder.join(name)).unwrap()));
    let archive = dir.path().join("any.tar.gz");
    let bytes = gzip(&tar(&files.each_ref().map(|(name, bytes)| file(name, bytes))));
    fs::write(&archive, &bytes).unwrap();
    let cifar = Dataset::open(Cifar10, &archive).unwrap();
    assert_eq!(cifar.source.origin, Origin::Archive { path: archive, format: Format::Python });
    check(cifar);
    check(Dataset::from_archive_reader(Cifar10, &bytes[..], "memory").unwrap());

    fs::remove_file(folder.join("data_batch_3")).unwrap();
    let message = Dataset::open(Cifar10, dir.path()).unwrap_err().to_string();
    assert!(message.ends_with("data_batch_3 is missing: CIFAR-10 has data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5 and test_batch; get the file again"), "{message}");
    fs::write(folder.join("data_batch_3"), Batch::cifar10(images(1), vec![0]).pickle()).unwrap();
    let message = Dataset::open(Cifar10, dir.path()).unwrap_err().to_string();
    assert!(message.contains("data_batch_3: it has 1 images, 10000 expected"), "{message}");
}

#[test]
fn the_names_of_the_classes_are_read() {
    let dir = TempDir::new().unwrap();
    let zeros = |len| Batch::cifar100(vec![0; len * 3072], vec![0; len], vec![0; len]).pickle();
    fs::write(dir.path().join("train"), zeros(50_000)).unwrap();
    fs::write(dir.path().join("test"), zeros(10_000)).unwrap();
    assert_eq!(Dataset::open(Cifar100, dir.path()).unwrap().class_names, FINE_NAMES);
    let mut coarse = COARSE_NAMES;
    coarse[0] = "fish and others";
    let lists = [("fine_label_names", &FINE_NAMES[..]), ("coarse_label_names", &coarse)];
    fs::write(dir.path().join("meta"), names(&lists)).unwrap();
    assert_eq!(Dataset::open(Cifar100, dir.path()).unwrap().coarse_names, coarse);
    fs::write(dir.path().join("meta"), names(&[("fine_label_names", &FINE_NAMES[1..])])).unwrap();
    let message = Dataset::open(Cifar100, dir.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("meta has 99 names, 100 expected; get the file again or remove it"),
        "{message}"
    );
}

proptest! {
    #[test]
    fn damage_is_an_error_or_other_data(at in 0usize..6_800, byte: u8, end in 0usize..6_900) {
        let whole = two().pickle();
        let mut bytes = whole.clone();
        let at = at % bytes.len();
        bytes[at] = byte;
        // Whatever is read has the right sizes; the reader sees to that.
        if let Ok(split) = read(Cifar100, &bytes) {
            prop_assert_eq!(split.len(), 2);
        }
        if end < whole.len() {
            prop_assert!(read(Cifar100, &whole[..end]).is_err());
        }
    }
}
