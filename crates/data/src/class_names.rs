//! The names of the classes, by label.

use std::path::Path;

use crate::{Error, Result};

/// The names of the 100 fine labels, as CIFAR-100 spells them.
pub const FINE_NAMES: [&str; 100] = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
];

/// The names of the 20 coarse labels (superclasses), as CIFAR-100 spells them.
pub const COARSE_NAMES: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];

/// The names of CIFAR-10's labels.
pub const CIFAR10_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The names in a text file: one a line, blank lines ignored.
///
/// # Errors
/// [`Error::Names`] where there are not exactly `expected` of them.
pub(crate) fn parse(text: &str, path: &Path, expected: usize) -> Result<Vec<String>> {
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect();
    check(names, path, expected)
}

/// The names, if there are exactly `expected` of them.
///
/// # Errors
/// [`Error::Names`] otherwise.
pub(crate) fn check(names: Vec<String>, path: &Path, expected: usize) -> Result<Vec<String>> {
    if names.len() != expected {
        return Err(Error::Names { path: path.into(), expected, found: names.len() });
    }
    Ok(names)
}

/// The names built in, as owned strings.
pub(crate) fn built_in(names: &[&str]) -> Vec<String> {
    names.iter().copied().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_distinct() {
        assert!(FINE_NAMES.is_sorted_by(|a, b| a < b));
        assert!(COARSE_NAMES.is_sorted_by(|a, b| a < b));
        assert!(CIFAR10_NAMES.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn lines_are_counted() {
        let path = Path::new("coarse_label_names.txt");
        assert_eq!(parse("fish\r\ntrees\n\n", path, 2).unwrap(), ["fish", "trees"]);
        let message = parse("fish\n", path, 2).unwrap_err().to_string();
        assert_eq!(
            message,
            "coarse_label_names.txt has 1 names, 2 expected; get the file again or remove it"
        );
    }
}
