//! The binary version's records: whole ones are read, and nothing else is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wrn_sam_data::{IMAGE_BYTES, Split, Variant};

fuzz_target!(|bytes: &[u8]| {
    for (variant, label_bytes) in [(Variant::Cifar10, 1), (Variant::Cifar100, 2)] {
        if let Ok(split) = Split::from_binary(variant, bytes, "fuzzed") {
            assert_eq!(split.len() * (label_bytes + IMAGE_BYTES), bytes.len());
            assert!(split.labels().iter().all(|label| usize::from(*label) < variant.classes()));
        }
    }
});
