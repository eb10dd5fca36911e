//! The policies' operations against images made with torchvision, and what holds for every image.
//! testdata/make_augment_fixtures.py makes the images.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wrn_sam_data::{Augmentation, AugmentationDraw, IMAGE_BYTES, Operation, Policy, Statistics};

fn fixtures() -> &'static HashMap<String, Tensor> {
    static FIXTURES: OnceLock<HashMap<String, Tensor>> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let mut bytes = Vec::new();
        let packed: &[u8] = include_bytes!("../../testdata/augment.safetensors.gz");
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap()
    })
}

/// The operation of torchvision's name; a strength that it does not have is ignored.
fn operation(name: &str, strength: f64) -> Operation {
    match name {
        "Identity" => Operation::Identity,
        "ShearX" => Operation::ShearX(strength),
        "ShearY" => Operation::ShearY(strength),
        "TranslateX" => Operation::TranslateX(strength),
        "TranslateY" => Operation::TranslateY(strength),
        "Rotate" => Operation::Rotate(strength),
        "Brightness" => Operation::Brightness(strength),
        "Color" => Operation::Color(strength),
        "Contrast" => Operation::Contrast(strength),
        "Sharpness" => Operation::Sharpness(strength),
        "Posterize" => Operation::Posterize(strength as u32),
        "Solarize" => Operation::Solarize(strength),
        "AutoContrast" => Operation::AutoContrast,
        "Equalize" => Operation::Equalize,
        "Invert" => Operation::Invert,
        _ => panic!("no operation {name}"),
    }
}

/// The name and strength of an operation, the other way round.
fn name(operation: Operation) -> (&'static str, f64) {
    match operation {
        Operation::Identity => ("Identity", 0.0),
        Operation::ShearX(strength) => ("ShearX", strength),
        Operation::ShearY(strength) => ("ShearY", strength),
        Operation::TranslateX(strength) => ("TranslateX", strength),
        Operation::TranslateY(strength) => ("TranslateY", strength),
        Operation::Rotate(strength) => ("Rotate", strength),
        Operation::Brightness(strength) => ("Brightness", strength),
        Operation::Color(strength) => ("Color", strength),
        Operation::Contrast(strength) => ("Contrast", strength),
        Operation::Sharpness(strength) => ("Sharpness", strength),
        Operation::Posterize(bits) => ("Posterize", f64::from(bits)),
        Operation::Solarize(threshold) => ("Solarize", threshold),
        Operation::AutoContrast => ("AutoContrast", 0.0),
        Operation::Equalize => ("Equalize", 0.0),
        Operation::Invert => ("Invert", 0.0),
    }
}

fn images(tensor: &Tensor) -> Vec<[u8; IMAGE_BYTES]> {
    let bytes: Vec<u8> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    bytes.as_chunks().0.to_vec()
}

#[test]
fn every_operation_equals_torchvisions_bit_for_bit() {
    let sources = images(&fixtures()["images"]);
    let mut compared = BTreeMap::new();
    for (key, tensor) in fixtures() {
        let Some((name, strength)) = key.strip_prefix("op/").and_then(|key| key.split_once('/')) else {
            continue;
        };
        let operation = operation(name, strength.parse().unwrap());
        for (number, (mut image, expected)) in sources.iter().copied().zip(images(tensor)).enumerate() {
            operation.apply(&mut image);
            let wrong = image.iter().zip(&expected).position(|(found, expected)| found != expected);
            assert_eq!(wrong.map(|i| (i, image[i], expected[i])), None, "{operation:?} on image {number}");
        }
        *compared.entry(name).or_insert(0) += 1;
    }
    assert_eq!(compared.len(), 15, "{compared:?}");
    assert!(compared.values().sum::<i32>() > 80, "{compared:?}");
}

/// How often each operation at each strength comes among `draws` images' operations.
fn tally(policy: Policy, draws: usize) -> HashMap<(&'static str, u64), usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut counts = HashMap::new();
    for _ in 0..draws {
        for operation in policy.sample(32, &mut rng) {
            let (name, strength) = name(operation);
            // -0 is 0.
            *counts.entry((name, (strength + 0.0).to_bits())).or_insert(0) += 1;
        }
    }
    counts
}

/// The operations by the numbers that the fixtures have for them.
const NAMES: [&str; 15] = [
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
];

/// Every operation of a policy comes at torchvision's strengths exactly, as often as it says, and no other comes.
fn assert_policy(policy: Policy, file: &str, per_image: f64) {
    const DRAWS: usize = 100_000;
    let counts = tally(policy, DRAWS);
    let names: Vec<u8> = fixtures()[&format!("{file}/name")].to_vec1().unwrap();
    let strengths: Vec<f64> = fixtures()[&format!("{file}/strength")].to_vec1().unwrap();
    let chances: Vec<f64> = fixtures()[&format!("{file}/expected")].to_vec1().unwrap();
    assert!((chances.iter().sum::<f64>() - per_image).abs() < 1e-9);
    let mut known = 0;
    for ((kind, strength), chance) in names.iter().zip(strengths).zip(chances) {
        let name = NAMES[usize::from(*kind)];
        let found = counts.get(&(name, (strength + 0.0).to_bits())).copied().unwrap_or(0);
        let expected = chance * DRAWS as f64;
        let bound = 5.5 * (expected + 1.0).sqrt();
        assert!(
            (found as f64 - expected).abs() < bound,
            "{name} {strength}: {found} found, {expected} expected"
        );
        known += found;
    }
    assert_eq!(
        known,
        counts.values().sum::<usize>(),
        "operations that torchvision does not have: {counts:?}"
    );
}

#[test]
fn auto_augment_draws_torchvisions_operations_as_often() {
    let per_image = fixtures()["AutoAugment/expected"].to_vec1::<f64>().unwrap().iter().sum();
    assert_policy(Policy::AutoAugment, "AutoAugment", per_image);
}

#[test]
fn rand_augment_draws_torchvisions_operations_as_often() {
    assert_policy(Policy::RAND_AUGMENT, "RandAugment", 2.0);
}

#[test]
fn trivial_augment_draws_torchvisions_operations_as_often() {
    assert_policy(Policy::TrivialAugment, "TrivialAugmentWide", 1.0);
}

#[test]
fn auto_augment_draws_pairs_in_their_order() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut both = 0;
    for _ in 0..10_000 {
        let operations = Policy::AutoAugment.sample(32, &mut rng);
        assert!(operations.len() <= 2);
        if let [Operation::Rotate(angle), then] = operations[..] {
            // Only one pair begins with a rotation.
            assert!(matches!(then, Operation::TranslateX(pixels) if pixels.abs() > 14.0), "{then:?}");
            assert!((angle.abs() - 20.0 / 3.0).abs() < 1e-5, "{angle}");
            both += 1;
        }
    }
    // 10,000 / 25 * 0.7 * 0.3
    assert!((40..130).contains(&both), "{both}");
}

#[test]
fn a_policy_leaves_the_other_draws_as_they_are() {
    let statistics = Statistics { mean: [0.5; 3], std: [0.25; 3] };
    let plain = Augmentation::reference(statistics);
    for policy in [Policy::AutoAugment, Policy::RAND_AUGMENT, Policy::TrivialAugment] {
        let with = plain.clone().with_policy(policy);
        for seed in 0..100 {
            let [plain, with] = [&plain, &with].map(|a| a.sample(32, &mut ChaCha8Rng::seed_from_u64(seed)));
            assert_eq!(plain, AugmentationDraw { operations: Vec::new(), ..with });
        }
    }
}

#[test]
fn operations_come_between_the_flip_and_the_cutout() {
    let augmentation =
        Augmentation::from_policy(Policy::AutoAugment, Statistics { mean: [0.0; 3], std: [1.0 / 255.0; 3] });
    let mut image = [100; IMAGE_BYTES];
    image[0] = 7; // red at the top left, at the top right when mirrored
    let operations = vec![Operation::TranslateX(-1.0), Operation::Invert];
    let draw =
        AugmentationDraw { flip: true, operations, cutout: Some((8, 8)), ..AugmentationDraw::IDENTITY };
    let mut out = [0.0; IMAGE_BYTES];
    augmentation.apply(&image, &draw, &mut out);
    let red = |y: usize, x: usize| out[(y * 32 + x) * 3].round();
    assert_eq!((red(0, 30), red(0, 31), red(0, 0)), (248.0, 255.0, 155.0));
    assert_eq!((red(8, 8), red(23, 23), red(24, 24)), (0.0, 0.0, 155.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn strength_zero_is_the_identity(bytes in prop::collection::vec(any::<u8>(), 61)) {
        let image: [u8; IMAGE_BYTES] = std::array::from_fn(|i| bytes[i % bytes.len()]);
        let at_rest = NAMES[..10].iter().map(|name| operation(name, 0.0));
        for operation in at_rest.chain([Operation::Posterize(8), Operation::Solarize(256.0)]) {
            let mut changed = image;
            operation.apply(&mut changed);
            prop_assert!(changed == image, "{:?}", operation);
        }
        let mut twice = image;
        Operation::Invert.apply(&mut twice);
        Operation::Invert.apply(&mut twice);
        prop_assert!(twice == image);
    }

    /// Any strength at all, also what no policy draws.
    #[test]
    fn no_strength_panics(
        kind in 0..NAMES.len(),
        strength in prop::num::f64::ANY,
        bytes in prop::collection::vec(any::<u8>(), 61),
    ) {
        let mut image: [u8; IMAGE_BYTES] = std::array::from_fn(|i| bytes[i % bytes.len()]);
        operation(NAMES[kind], strength).apply(&mut image);
    }

    /// Moving an image brings in no byte but black.
    #[test]
    fn geometry_only_moves_bytes(
        kind in 1..6_usize,
        strength in -40.0..40.0,
        bytes in prop::collection::vec(any::<u8>(), 61),
    ) {
        let mut image: [u8; IMAGE_BYTES] = std::array::from_fn(|i| bytes[i % bytes.len()]);
        let known: std::collections::HashSet<u8> = image.into_iter().chain([0]).collect();
        operation(NAMES[kind], strength).apply(&mut image);
        prop_assert!(image.iter().all(|byte| known.contains(byte)));
    }

    #[test]
    fn policies_repeat(seed: u64) {
        for policy in [Policy::AutoAugment, Policy::RAND_AUGMENT, Policy::TrivialAugment] {
            let draw = || policy.sample(32, &mut ChaCha8Rng::seed_from_u64(seed));
            prop_assert_eq!(draw(), draw());
        }
    }
}
