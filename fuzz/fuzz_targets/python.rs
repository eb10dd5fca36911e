//! The Python version's pickles: what is read fits together, in bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wrn_sam_data::{Split, Variant};

fuzz_target!(|bytes: &[u8]| {
    for variant in [Variant::Cifar10, Variant::Cifar100] {
        if let Ok(split) = Split::from_python(variant, bytes, "fuzzed") {
            assert!(split.images().len() == split.len() && split.bytes().len() <= bytes.len());
            assert!(split.labels().iter().all(|label| usize::from(*label) < variant.classes()));
        }
    }
});
