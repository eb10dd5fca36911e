//! Archives: as they are, and as the tar in one. None as small as these can be the whole data set.
#![no_main]

use flate2::Compression;
use flate2::read::GzEncoder;
use libfuzzer_sys::fuzz_target;
use wrn_sam_data::{Dataset, Variant};

fuzz_target!(|bytes: &[u8]| {
    for variant in [Variant::Cifar10, Variant::Cifar100] {
        assert!(Dataset::from_archive_reader(variant, bytes, "fuzzed").is_err());
        let zipped = GzEncoder::new(bytes, Compression::none());
        assert!(Dataset::from_archive_reader(variant, zipped, "fuzzed").is_err());
    }
});
