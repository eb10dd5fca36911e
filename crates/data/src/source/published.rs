//! What the published data sets are recognized by.
//!
//! The sums are those of the files at <https://www.cs.toronto.edu/~kriz/cifar.html>. Those of the Python version
//! are also torchvision's.

use md5::{Digest, Md5};

use super::layout::FileLayout;
use crate::checksum::FileChecksum;
use crate::{Dataset, Split, Variant};

/// The MD5 of a published file of images.
fn md5(name: &str) -> Option<&'static str> {
    Some(match name {
        "data_batch_1.bin" => "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin" => "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin" => "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin" => "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin" => "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin" => "803d5f7f4d78ea53de84dbe85f74fb6d",
        "data_batch_1" => "c99cafc152244af753f735de768cd75f",
        "data_batch_2" => "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3" => "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4" => "634d18415352ddfa80567beed471001a",
        "data_batch_5" => "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch" => "40351d587109b95175f43aff81a1287e",
        "train.bin" => "6172c7755cfe09b2fe270c85cebc1b15",
        "test.bin" => "4499cfba6c016c1be1438163640a0898",
        "train" => "16019d7e3df5f24257cddd939b257f8d",
        "test" => "f0ef6b0ae62326f3e7ffdfab6717acfc",
        _ => return None,
    })
}

/// Whether `files` has every file of the layout's images with its published MD5.
pub(super) fn are_published(layout: &FileLayout, files: &[FileChecksum]) -> bool {
    let is_published = |name: &str| {
        let expected = md5(name);
        files.iter().any(|file| file.name == name && Some(&*file.md5) == expected)
    };
    layout.image_files().all(|(_, name)| is_published(name))
}

/// The [`content_sum`]s of CIFAR-100's splits.
const CIFAR100_TRAIN: u128 = 0x0271_3d90_c723_5ab1_093f_37ef_207a_8841;
const CIFAR100_TEST: u128 = 0x55d0_4692_0e0f_6b6a_7384_479f_b1fc_9caa;

/// Whether the splits are those of CIFAR-100, in any order of their images.
pub(super) fn has_published_content(cifar: &Dataset) -> bool {
    cifar.source.variant == Some(Variant::Cifar100)
        && content_sum(&cifar.test) == CIFAR100_TEST
        && content_sum(&cifar.train) == CIFAR100_TRAIN
}

/// The sum modulo 2^128 over all images of the MD5 of coarse label, label and image, each MD5 as a number of 16
/// bytes, the lowest first.
fn content_sum(split: &Split) -> u128 {
    let coarse_labels = split.coarse_labels().unwrap_or_default();
    let sum = |index: usize| {
        let digest = Md5::new()
            .chain_update(coarse_labels.get(index..=index).unwrap_or_default())
            .chain_update([split.label(index)])
            .chain_update(split.image(index));
        u128::from_le_bytes(digest.finalize().into())
    };
    (0..split.len()).map(sum).fold(0, u128::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::super::layout::layouts;
    use super::*;
    use crate::IMAGE_BYTES;

    #[test]
    fn every_file_of_images_must_be_published() {
        for layout in [Variant::Cifar10, Variant::Cifar100].into_iter().flat_map(layouts) {
            let files: Vec<_> = layout
                .image_files()
                .map(|(_, name)| FileChecksum { name: name.into(), bytes: 0, md5: md5(name).unwrap().into() })
                .collect();
            assert!(are_published(layout, &files));
            for index in 0..files.len() {
                let mut damaged = files.clone();
                damaged[index].md5 = damaged[index].md5.chars().rev().collect();
                assert!(!are_published(layout, &damaged), "{:?}", damaged[index]);
                damaged.remove(index);
                assert!(!are_published(layout, &damaged));
            }
        }
    }

    #[test]
    fn no_two_files_have_one_sum() {
        let names = [Variant::Cifar10, Variant::Cifar100].into_iter().flat_map(layouts);
        let sums: std::collections::HashSet<_> =
            names.flat_map(FileLayout::image_files).map(|(_, name)| md5(name).unwrap()).collect();
        assert_eq!(sums.len(), 16);
        assert!(sums.iter().all(|sum| sum.len() == 32 && sum.chars().all(|c| c.is_ascii_hexdigit())));
        assert_eq!(md5("batches.meta"), None);
    }

    #[test]
    fn content_is_summed_in_any_order() {
        let split = |records: &[(u8, u8, u8)]| {
            let images = records.iter().flat_map(|(_, _, pixel)| [*pixel; IMAGE_BYTES]).collect();
            let labels = records.iter().map(|(_, fine, _)| *fine).collect();
            let coarse = records.iter().map(|(coarse, _, _)| *coarse).collect();
            content_sum(&Split::new(images, labels, Some(coarse)).unwrap())
        };
        let all = split(&[(1, 2, 3), (4, 5, 6), (7, 8, 9)]);
        assert_eq!(split(&[(7, 8, 9), (1, 2, 3), (4, 5, 6)]), all);
        for other in [(0, 8, 9), (7, 0, 9), (7, 8, 0), (8, 7, 9), (4, 5, 6)] {
            assert_ne!(split(&[(1, 2, 3), (4, 5, 6), other]), all, "{other:?}");
        }
        // One image is the MD5 of its record.
        let record = [&[1, 2][..], &[3; IMAGE_BYTES]].concat();
        assert_eq!(split(&[(1, 2, 3)]).to_le_bytes(), *Md5::digest(record));
    }
}
