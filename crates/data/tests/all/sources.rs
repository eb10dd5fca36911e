//! Folders and archives: what is right is read, and everything wrong is told apart.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::common::{Entry, RECORD, file, gzip, header, md5, real_cifar100, tar};
use tar::EntryType;
use tempfile::TempDir;
use wrn_sam_data::{COARSE_NAMES, Dataset, FINE_NAMES, Format, Origin, Split, Statistics, Variant::*};

const TRAIN: u64 = 50_000 * RECORD as u64;
const TEST: u64 = 10_000 * RECORD as u64;

/// A folder with files of the given sizes, all zeros (which take no room on disk).
fn folder(train: Option<u64>, test: Option<u64>) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, size) in [("train.bin", train), ("test.bin", test)] {
        if let Some(size) = size {
            File::create(dir.path().join(name)).unwrap().set_len(size).unwrap();
        }
    }
    dir
}

fn dir_error(dir: &TempDir) -> String {
    let message = Dataset::from_dir(Cifar100, dir.path()).unwrap_err().to_string();
    message.replace(dir.path().to_str().unwrap(), "DIR")
}

fn poke(path: &Path, offset: u64, byte: u8) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&[byte]).unwrap();
}

#[test]
fn a_folder_is_read_from_itself_or_its_parent() {
    let dir = folder(Some(TRAIN), Some(TEST));
    poke(&dir.path().join("train.bin"), TRAIN - RECORD as u64 + 1, 99);
    poke(&dir.path().join("test.bin"), 0, 19);
    poke(&dir.path().join("test.bin"), 3073, 200);
    let cifar = Dataset::from_dir(Cifar100, dir.path()).unwrap();
    assert_eq!((cifar.train.len(), cifar.test.len()), (50_000, 10_000));
    assert_eq!((cifar.train.label(49_999), cifar.test.coarse_labels().unwrap()[0]), (99, 19));
    assert_eq!(cifar.test.image(0)[3071], 200);
    assert_eq!(cifar.source.origin, Origin::Folder { path: dir.path().into(), format: Format::Binary });
    let files: Vec<_> = cifar.source.files.iter().map(|file| (&file.name[..], file.bytes)).collect();
    assert_eq!(files, [("train.bin", TRAIN), ("test.bin", TEST)]);
    assert_eq!(cifar.source.files[1].md5, md5(&fs::read(dir.path().join("test.bin")).unwrap()));
    assert_eq!((cifar.class_names[99].as_str(), cifar.coarse_names[19].as_str()), ("worm", "vehicles_2"));

    let parent = TempDir::new().unwrap();
    let inner = parent.path().join("cifar-100-binary");
    fs::rename(dir.path(), &inner).unwrap();
    let coarse: Vec<String> = (0..20).map(|i| format!("group {i}")).collect();
    fs::write(inner.join("coarse_label_names.txt"), coarse.join("\n")).unwrap();
    let cifar = Dataset::open(Cifar100, parent.path()).unwrap();
    assert_eq!(
        cifar.source.to_string(),
        format!(
            "unknown images in the form of CIFAR-100 from the folder {} (binary version)",
            inner.display()
        )
    );
    assert_eq!(cifar.source.location(), Some(inner.clone()));
    assert_eq!((&cifar.coarse_names, cifar.class_names[0].as_str()), (&coarse, "apple"));
    fs::write(inner.join("fine_label_names.txt"), "apple\n").unwrap();
    let message = Dataset::open(Cifar100, parent.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("fine_label_names.txt has 1 names, 100 expected; get the file again or remove it")
    );
}

#[test]
fn wrong_folders_are_told_apart() {
    let none = "no CIFAR-100 in DIR: neither train.bin or cifar-100-binary/train.bin (binary version) nor \
                train or cifar-100-python/train (Python version) is there; give the folder that its binary or \
                its Python version was unpacked to, or its .tar.gz";
    assert_eq!(dir_error(&folder(None, None)), none);
    assert_eq!(
        dir_error(&folder(Some(TRAIN), None)),
        "DIR/test.bin is missing: CIFAR-100 has train.bin and test.bin; get the file again"
    );
    assert_eq!(
        dir_error(&folder(None, Some(TEST))),
        "DIR/train.bin is missing: CIFAR-100 has train.bin and test.bin; get the file again"
    );
    assert_eq!(
        dir_error(&folder(Some(0), Some(TEST))),
        "DIR/train.bin is empty: records of 3074 bytes expected; get the file again"
    );
    assert_eq!(
        dir_error(&folder(Some(TRAIN - 1), Some(TEST))),
        "DIR/train.bin is cut short in record 49999: 153700000 bytes expected (50000 records of 3074), \
         153699999 found; get the file again"
    );
    assert_eq!(
        dir_error(&folder(Some(TRAIN), Some(TEST + RECORD as u64))),
        "DIR/test.bin is too long: 30740000 bytes expected (10000 records of 3074), 30743074 found; \
         is it of CIFAR-100's binary version?"
    );
    let labeled = folder(Some(TRAIN), Some(TEST));
    poke(&labeled.path().join("train.bin"), 777 * RECORD as u64 + 1, 100);
    assert_eq!(
        dir_error(&labeled),
        "DIR/train.bin: record 777 has the fine label 100 at offset 2388499, 0 to 99 allowed; \
         is it of CIFAR-100's binary version?"
    );
}

#[test]
fn any_whole_number_of_records_can_be_read() {
    let dir = folder(Some(3 * RECORD as u64), Some(5));
    assert_eq!(Split::read(Cifar100, dir.path().join("train.bin")).unwrap().len(), 3);
    let message = Split::read(Cifar100, dir.path().join("test.bin")).unwrap_err().to_string();
    assert!(
        message.contains("cut short in record 0: 3074 bytes expected (1 records of 3074), 5 found"),
        "{message}"
    );
    let message = Split::read(Cifar100, dir.path().join("nothing.bin")).unwrap_err().to_string();
    assert!(message.starts_with("cannot open "), "{message}");
}

/// What reading the bytes as an archive says.
fn archive_error(bytes: &[u8]) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cifar-100-binary.tar.gz");
    fs::write(&path, bytes).unwrap();
    let message = Dataset::from_archive(Cifar100, &path).unwrap_err().to_string();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was unpacked");
    message.replace(dir.path().to_str().unwrap(), "DIR")
}

#[test]
fn an_archive_is_read_in_memory() {
    // Zeros but for one label in each, around a file that is not of CIFAR-100 and a folder.
    let (mut train, mut test) = (vec![0; TRAIN as usize], vec![0; TEST as usize]);
    train[5 * RECORD + 1] = 42;
    test[9_999 * RECORD] = 19;
    let coarse: Vec<String> = (0..20).map(|i| format!("group {i}")).collect();
    let bytes = gzip(&tar(&[
        Entry(EntryType::Directory, "cifar-100-binary/", &[]),
        file("cifar-100-binary/README", b"some text"),
        file("cifar-100-binary/test.bin", &test),
        file("cifar-100-binary/coarse_label_names.txt", coarse.join("\n").as_bytes()),
        file("cifar-100-binary/train.bin", &train),
    ]));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cifar-100-binary.tar.gz");
    fs::write(&path, &bytes).unwrap();
    for cifar in [Dataset::open(Cifar100, dir.path()).unwrap(), Dataset::open(Cifar100, &path).unwrap()] {
        assert_eq!((cifar.train.len(), cifar.test.len()), (50_000, 10_000));
        assert_eq!((cifar.train.label(5), cifar.test.coarse_labels().unwrap()[9_999]), (42, 19));
        assert_eq!(cifar.source.origin, Origin::Archive { path: path.clone(), format: Format::Binary });
        assert_eq!((cifar.source.location(), cifar.source.known), (Some(path.clone()), false));
        assert_eq!((cifar.source.files.len(), &cifar.source.files[0].md5), (1, &md5(&bytes)));
        assert_eq!((&cifar.coarse_names, cifar.class_names[99].as_str()), (&coarse, "worm"));
    }

    // Cut anywhere, or with gzip's checksum wrong, it is refused.
    for end in [0, 5, bytes.len() / 2, bytes.len() - 1] {
        let message = archive_error(&bytes[..end]);
        assert!(message.starts_with("DIR/cifar-100-binary.tar.gz is damaged or is no .tar.gz"), "{message}");
    }
    let mut wrong = bytes;
    let checksum = wrong.len() - 8;
    wrong[checksum] ^= 1;
    let message = archive_error(&wrong);
    assert!(message.contains("is damaged or is no .tar.gz of CIFAR-100: "), "{message}");
    assert!(message.ends_with("; get it again"), "{message}");
}

/// Damage to the bytes of a .tar.gz is reported as damage, whatever its content then seems to be.
#[test]
fn a_damaged_archive_is_called_damaged() {
    let short = [0; RECORD];
    let one = |path, bytes: &[u8]| gzip(&tar(&[file(path, bytes)]));
    let no_tar = b"a tar's header would be here, but this is a text of some length".repeat(9);
    let mut labels = vec![0; TRAIN as usize];
    labels[1] = 100;
    for (whole, content) in [
        (one("cifar-100-binary/train.bin", &labels), "has the fine label 100 at offset 1"),
        (one("cifar-100-binary/train.bin", &short), "is cut short in record 1"),
        (one("cifar-100-binary/train.bin", &[]), "is empty"),
        (
            one("cifar-100-python/train", b"\x80\x02cos\nsystem\nU\x04true\x85R."),
            "the pickle names os.system",
        ),
        (one("cifar-100-python/train", &short), "has the opcode"),
        (one("fine_label_names.txt", b"apple\n"), "has 1 names, 100 expected"),
        (one("../train.bin", &short), "leads out of the folder"),
        (one("README", b"nothing else"), "no CIFAR-100 in "),
        (gzip(&no_tar), "is damaged or is no .tar.gz"),
    ] {
        let message = archive_error(&whole);
        assert!(message.contains(content), "{message}");
        let end = whole.len();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        // In gzip's checksum, in its length, without both, and without the end of the length.
        for damaged in
            [flipped(end - 8), flipped(end - 1), whole[..end - 8].to_vec(), whole[..end - 3].to_vec()]
        {
            let message = archive_error(&damaged);
            assert!(
                message.starts_with("DIR/cifar-100-binary.tar.gz is damaged or is no .tar.gz"),
                "{message}"
            );
        }
    }
    // Nor is damage in the middle taken for content.
    let mixed: Vec<u8> = (0..TRAIN).map(|i| (i * i % 251) as u8 % 20).collect();
    let whole = one("cifar-100-binary/train.bin", &mixed);
    for at in [whole.len() / 5, whole.len() / 2, whole.len() - 100] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let message = archive_error(&bytes);
        assert!(message.contains("is damaged or is no .tar.gz"), "byte {at}: {message}");
    }
}

#[test]
fn a_directory_in_the_place_of_a_file_is_named() {
    let dir = folder(None, Some(TEST));
    fs::create_dir(dir.path().join("train.bin")).unwrap();
    let expected = "DIR/train.bin is a directory, a file expected; move it away or give another folder";
    assert_eq!(dir_error(&dir), expected);
    let alone = TempDir::new().unwrap();
    fs::create_dir(alone.path().join("train.bin")).unwrap();
    assert_eq!(dir_error(&alone), expected);
    let official = TempDir::new().unwrap();
    fs::create_dir_all(official.path().join("cifar-100-python/train")).unwrap();
    let python = expected.replace("train.bin", "cifar-100-python/train");
    assert_eq!(dir_error(&official), python);
    let names = folder(Some(TRAIN), Some(TEST));
    fs::create_dir(names.path().join("fine_label_names.txt")).unwrap();
    assert_eq!(dir_error(&names), expected.replace("train.bin", "fine_label_names.txt"));
    // An archive too; but `open` takes a directory for the folder of the data set.
    let as_archive = Dataset::from_archive(Cifar100, alone.path()).unwrap_err().to_string();
    assert!(as_archive.ends_with("is a directory, a file expected; move it away or give another folder"));
    // Folders with the Python version's short names may be anything.
    let images = TempDir::new().unwrap();
    fs::create_dir(images.path().join("train")).unwrap();
    fs::create_dir(images.path().join("test")).unwrap();
    assert!(dir_error(&images).starts_with("no CIFAR-100 in DIR: neither "));
}

#[test]
fn the_other_data_set_is_hinted_at() {
    let says = |variant, path: &Path, expected: &str| {
        let error = Dataset::open(variant, path).unwrap_err();
        let message = error.to_string().replace(path.to_str().unwrap(), "PATH");
        assert_eq!(message, expected);
    };
    let ten = "no CIFAR-100 in PATH: it holds CIFAR-10; ask for CIFAR-10, or give the folder or .tar.gz of CIFAR-100";
    let hundred = "no CIFAR-10 in PATH: it holds CIFAR-100; ask for CIFAR-100, or give the folder or .tar.gz of CIFAR-10";
    for (variant, name, expected) in [
        (Cifar100, "data_batch_3.bin", ten),
        (Cifar100, "cifar-10-batches-bin/test_batch.bin", ten),
        (Cifar100, "cifar-10-batches-py/data_batch_1", ten),
        (Cifar100, "cifar-10-python.tar.gz", ten),
        (Cifar10, "train.bin", hundred),
        (Cifar10, "cifar-100-python/test", hundred),
        (Cifar10, "cifar-100-binary.tar.gz", hundred),
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "anything").unwrap();
        says(variant, dir.path(), expected);
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("data.tar.gz");
    fs::write(&path, gzip(&tar(&[file("cifar-10-batches-bin/test_batch.bin", &[0; 3073])]))).unwrap();
    says(Cifar100, &path, ten);
    fs::write(&path, gzip(&tar(&[file("cifar-100-python/meta", b"names"), file("x", b"")]))).unwrap();
    says(Cifar10, &path, hundred);
    says(
        Cifar10,
        &dir.path().join("nowhere"),
        "no CIFAR-10 in PATH: there is no such file or folder; give the folder that its binary or its Python version \
         was unpacked to, or its .tar.gz",
    );
}

#[test]
fn an_archive_of_wrong_content_is_refused() {
    let none = archive_error(&gzip(&tar(&[file("cifar-100-binary/README", b"something else")])));
    assert!(none.starts_with("no CIFAR-100 in DIR/cifar-100-binary.tar.gz: neither train.bin or"), "{none}");
    let names = COARSE_NAMES.join("\n");
    let missing = archive_error(&gzip(&tar(&[file("coarse_label_names.txt", names.as_bytes())])));
    assert!(missing.contains("train.bin is missing: CIFAR-100 has train.bin and test.bin"), "{missing}");
    let short = archive_error(&gzip(&tar(&[file("cifar-100-binary/train.bin", &[0; RECORD])])));
    assert!(short.contains("train.bin is cut short in record 1: 153700000 bytes expected"), "{short}");
    let empty = archive_error(&gzip(&tar(&[file("cifar-100-binary/test.bin", &[])])));
    assert!(empty.contains("test.bin is empty"), "{empty}");
    let names = archive_error(&gzip(&tar(&[file("fine_label_names.txt", b"a\nb\n")])));
    assert!(names.contains("fine_label_names.txt has 2 names, 100 expected"), "{names}");
    let twice = archive_error(&gzip(&tar(&[
        file("coarse_label_names.txt", COARSE_NAMES.join("\n").as_bytes()),
        file("./coarse_label_names.txt", COARSE_NAMES.join("\n").as_bytes()),
    ])));
    assert!(twice.contains("refusing the entry ./coarse_label_names.txt, which is there twice"), "{twice}");
    let text = archive_error(b"no archive at all");
    assert!(text.contains("is damaged or is no .tar.gz"), "{text}");
}

#[test]
fn an_archive_that_is_not_safe_is_refused() {
    for path in ["../train.bin", "cifar-100-binary/../../train.bin", "/etc/train.bin"] {
        let message = archive_error(&gzip(&tar(&[file(path, &[0; 10])])));
        let expected = format!(
            "DIR/cifar-100-binary.tar.gz: refusing the entry {path}, which leads out of the folder; \
             this is not the official archive"
        );
        assert_eq!(message, expected);
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char] {
        let message = archive_error(&gzip(&tar(&[Entry(kind, "cifar-100-binary/train.bin", &[])])));
        assert!(message.contains("train.bin, which is a link or no plain file"), "{message}");
    }
    for (path, size) in [("train.bin", TRAIN + 1), ("fine_label_names.txt", 1 << 20), ("other", 1 << 40)] {
        let message = archive_error(&gzip(header(EntryType::Regular, path, size).as_bytes()));
        assert!(message.contains(&format!("refusing the entry {path}, which is too large")), "{message}");
    }
    // 300 MB of zeros in as many files as it takes.
    let part = vec![0; 30 << 20];
    let bomb = archive_error(&gzip(&tar(&[0; 10].map(|_| file("filler", &part)))));
    assert!(bomb.contains("it unpacks to more than 268435456 bytes"), "{bomb}");
}

/// Data of the right size with wrong content are read, but not taken for CIFAR-100.
#[test]
fn a_damaged_copy_of_the_real_cifar100_is_unknown() {
    let Some(dir) = real_cifar100() else { return };
    let copy = TempDir::new().unwrap();
    for name in ["train.bin", "test.bin"] {
        fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    let known = || Dataset::from_dir(Cifar100, copy.path()).unwrap().source.known;
    assert!(known());
    let (train, test) = (copy.path().join("train.bin"), copy.path().join("test.bin"));
    let whole = fs::read(&train).unwrap();
    let half_zeros = [&whole[..whole.len() / 2], &vec![0; whole.len() / 2]].concat();
    let mut no_labels = whole.clone();
    no_labels.chunks_mut(RECORD).for_each(|record| record[1] = 0);
    let mut one_bit = whole.clone();
    one_bit[TRAIN as usize / 2] ^= 1;
    for wrong in [half_zeros, no_labels, one_bit] {
        fs::write(&train, wrong).unwrap();
        assert!(!known());
    }
    fs::write(&train, whole).unwrap();
    poke(&test, 0, 19 - fs::read(&test).unwrap()[0]);
    assert!(!known());
}

#[test]
fn the_real_cifar100_has_its_statistics_and_names() {
    let Some(dir) = real_cifar100() else { return };
    let cifar = Dataset::from_dir(Cifar100, &dir).unwrap();
    assert!(cifar.source.known, "{}", cifar.source);
    assert!(cifar.source.to_string().starts_with("CIFAR-100 from the folder "));
    let statistics = Statistics::from_split(&cifar.train).unwrap();
    let close = |found: [f64; 3], expected: [f64; 3]| {
        found.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} for {b}"))
    };
    close(statistics.mean, [0.50707516, 0.48654887, 0.44091784]);
    close(statistics.std, [0.26733429, 0.25643846, 0.27615047]);
    assert_eq!(cifar.class_names, FINE_NAMES);
    assert_eq!(cifar.coarse_names, COARSE_NAMES);
    for label in 0..100 {
        assert_eq!(cifar.train.labels().iter().filter(|found| **found == label).count(), 500);
        assert_eq!(cifar.test.labels().iter().filter(|found| **found == label).count(), 100);
    }
    // As many other forms of it as are there.
    let root = dir.ancestors().find(|folder| folder.join("cifar-100-binary").is_dir()).unwrap_or(&dir);
    for other in ["cifar-100-binary.tar.gz", "cifar-100-python", "cifar-100-python.tar.gz"] {
        if !root.join(other).exists() {
            println!("skipped: no {other} in {}", root.display());
            continue;
        }
        let other = Dataset::open(Cifar100, root.join(other)).unwrap();
        assert!(other.source.known, "{}", other.source);
        for (found, expected) in [(&other.train, &cifar.train), (&other.test, &cifar.test)] {
            assert!(found.bytes() == expected.bytes());
            assert_eq!(found.labels(), expected.labels());
            assert_eq!(found.coarse_labels(), expected.coarse_labels());
        }
    }
}
