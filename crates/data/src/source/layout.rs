//! The files of the official distributions: what they are called and what is in them.

use std::path::{Component, Path};

use super::origin::Format;
use crate::cifar::{TEST_IMAGES, TRAIN_IMAGES, Variant};

/// One of a layout's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// Training images: which of the parts, from 0.
    Train(usize),
    Test,
    /// A text of fine label names, one a line.
    FineNames,
    /// A text of coarse label names, one a line.
    CoarseNames,
    /// Pickled lists of both.
    Meta,
}

/// The files of one distribution.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileLayout {
    pub(crate) variant: Variant,
    pub(crate) format: Format,
    /// The folder that the official archive unpacks to.
    pub(crate) folder: &'static str,
    /// The official archive's name.
    pub(crate) archive: &'static str,
    /// Every file; those of the names may be absent.
    pub(crate) members: &'static [(Member, &'static str)],
}

const CIFAR10: [FileLayout; 2] = [
    FileLayout {
        variant: Variant::Cifar10,
        format: Format::Binary,
        folder: "cifar-10-batches-bin",
        archive: "cifar-10-binary.tar.gz",
        members: &[
            (Member::Train(0), "data_batch_1.bin"),
            (Member::Train(1), "data_batch_2.bin"),
            (Member::Train(2), "data_batch_3.bin"),
            (Member::Train(3), "data_batch_4.bin"),
            (Member::Train(4), "data_batch_5.bin"),
            (Member::Test, "test_batch.bin"),
            (Member::FineNames, "batches.meta.txt"),
        ],
    },
    FileLayout {
        variant: Variant::Cifar10,
        format: Format::Python,
        folder: "cifar-10-batches-py",
        archive: "cifar-10-python.tar.gz",
        members: &[
            (Member::Train(0), "data_batch_1"),
            (Member::Train(1), "data_batch_2"),
            (Member::Train(2), "data_batch_3"),
            (Member::Train(3), "data_batch_4"),
            (Member::Train(4), "data_batch_5"),
            (Member::Test, "test_batch"),
            (Member::Meta, "batches.meta"),
        ],
    },
];

const CIFAR100: [FileLayout; 2] = [
    FileLayout {
        variant: Variant::Cifar100,
        format: Format::Binary,
        folder: "cifar-100-binary",
        archive: "cifar-100-binary.tar.gz",
        members: &[
            (Member::Train(0), "train.bin"),
            (Member::Test, "test.bin"),
            (Member::FineNames, "fine_label_names.txt"),
            (Member::CoarseNames, "coarse_label_names.txt"),
        ],
    },
    FileLayout {
        variant: Variant::Cifar100,
        format: Format::Python,
        folder: "cifar-100-python",
        archive: "cifar-100-python.tar.gz",
        members: &[(Member::Train(0), "train"), (Member::Test, "test"), (Member::Meta, "meta")],
    },
];

/// The two layouts of a variant, the binary format's first.
pub(crate) fn layouts(variant: Variant) -> &'static [FileLayout; 2] {
    match variant {
        Variant::Cifar10 => &CIFAR10,
        Variant::Cifar100 => &CIFAR100,
    }
}

/// The most bytes of a file of class names; CIFAR-100's have fewer than 2,000.
const MAX_NAMES_BYTES: u64 = 1 << 16;
/// The most bytes that a pickle may take per image: its 3072, labels and a file name.
pub(crate) const MAX_PICKLE_BYTES_PER_IMAGE: u64 = 3072 + 256;

impl FileLayout {
    /// The number of images in a member.
    pub(crate) fn images(&self, member: Member) -> Option<usize> {
        match member {
            Member::Train(_) => Some(TRAIN_IMAGES / self.train_parts()),
            Member::Test => Some(TEST_IMAGES),
            _ => None,
        }
    }

    /// The file's name.
    pub(crate) fn name(&self, member: Member) -> &'static str {
        let file = self.members.iter().find(|(found, _)| *found == member);
        file.map_or("", |(_, name)| name)
    }

    /// The number of files that the training split is in.
    pub(crate) fn train_parts(&self) -> usize {
        self.image_files().count() - 1
    }

    /// The files without which there is no data set.
    pub(crate) fn image_files(&self) -> impl Iterator<Item = (Member, &'static str)> {
        self.members.iter().copied().filter(|(member, _)| matches!(member, Member::Train(_) | Member::Test))
    }

    /// The most bytes that a member may have.
    pub(crate) fn max_bytes(&self, member: Member) -> u64 {
        match self.images(member) {
            None => MAX_NAMES_BYTES,
            Some(images) => images as u64 * self.max_bytes_per_image(),
        }
    }

    fn max_bytes_per_image(&self) -> u64 {
        match self.format {
            Format::Binary => self.variant.record_bytes() as u64,
            Format::Python => MAX_PICKLE_BYTES_PER_IMAGE,
        }
    }

    /// Which member an archive's entry `path` is, if it is in the official folder or in none.
    pub(crate) fn member(&self, path: &Path) -> Option<Member> {
        let mut names = path.components().filter(|component| *component != Component::CurDir).rev();
        let name = names.next()?.as_os_str();
        let in_place = match (names.next(), names.next()) {
            (None, _) => true,
            (Some(folder), None) => folder.as_os_str() == self.folder,
            _ => false,
        };
        self.members.iter().find(|(_, file)| in_place && name == *file).map(|(member, _)| *member)
    }
}

/// Why a search found nothing, and what to do, for [`Error::NoData`](crate::Error::NoData).
pub(crate) fn not_found(variant: Variant, path: &Path, other: Option<Variant>) -> String {
    if let Some(other) = other {
        return format!("it holds {other}; ask for {other}, or give the folder or .tar.gz of {variant}");
    }
    let [binary, python] = layouts(variant).each_ref().map(|layout| {
        let first = layout.members[0].1;
        format!("{first} or {}/{first} ({} version)", layout.folder, layout.format)
    });
    let reason = match path.exists() {
        true => format!("neither {binary} nor {python} is there"),
        false => "there is no such file or folder".into(),
    };
    format!("{reason}; give the folder that its binary or its Python version was unpacked to, or its .tar.gz")
}

/// All files of images of the layout that `path` belongs to, for [`Error::Missing`](crate::Error::Missing).
pub(crate) fn files_beside(variant: Variant, path: &Path) -> String {
    let has = |layout: &&FileLayout| layout.image_files().any(|(_, name)| path.ends_with(name));
    let layout = layouts(variant).iter().find(has).unwrap_or(&layouts(variant)[0]);
    let names: Vec<_> = layout.image_files().map(|(_, name)| name).collect();
    let (last, others) = names.split_last().expect("a test split");
    format!("{} and {last}", others.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_name_and_place() {
        let [binary, python] = layouts(Variant::Cifar100);
        let of = |path: &str| binary.member(Path::new(path));
        assert_eq!(of("cifar-100-binary/train.bin"), Some(Member::Train(0)));
        assert_eq!(of("./cifar-100-binary/test.bin"), Some(Member::Test));
        assert_eq!(of("fine_label_names.txt"), Some(Member::FineNames));
        assert_eq!(of("cifar-100-python/train"), None);
        assert_eq!(of("elsewhere/train.bin"), None);
        assert_eq!(of("cifar-100-binary/old/train.bin"), None);
        assert_eq!(of("a/cifar-100-binary/train.bin"), None);
        assert_eq!(of(""), None);
        assert_eq!(python.member(Path::new("cifar-100-python/meta")), Some(Member::Meta));
        assert_eq!(python.member(Path::new("cifar-100-binary/train")), None);
    }

    #[test]
    fn the_parts_of_the_training_split_are_counted() {
        for (variant, parts) in [(Variant::Cifar10, 5), (Variant::Cifar100, 1)] {
            for layout in layouts(variant) {
                assert_eq!(layout.train_parts(), parts);
                assert_eq!(layout.images(Member::Train(0)), Some(50_000 / parts));
                assert_eq!(layout.images(Member::Test), Some(10_000));
                let trains = (0..parts).map(Member::Train);
                assert!(layout.members.iter().map(|(member, _)| *member).take(parts).eq(trains));
            }
        }
    }
}
