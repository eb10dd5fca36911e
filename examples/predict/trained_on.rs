//! What a network was trained on: how pixels become its inputs, and what its classes are called.

use std::fmt::{Arguments, Display};
use std::path::Path;

use wrn_sam::data::{IMAGE_SIZE, Normalize, Statistics, Variant};
use wrn_sam::models::read_metadata;
use wrn_sam::train::{DataChoice, Provenance, Recipe};

use crate::support::{self, AnyError};

/// The pixels' statistics in training and the names of the classes.
pub struct TrainedOn {
    pub normalize: Normalize,
    /// The images' side in pixels.
    pub image_size: usize,
    names: Vec<String>,
}

impl TrainedOn {
    /// What the weights say themselves; else what the recipe beside them says; else the data set with so many classes.
    pub fn of(weights: &Path, classes: usize) -> Result<Self, AnyError> {
        let known = match read_metadata(weights)? {
            Some(text) => Self::from_provenance(weights, &text)?,
            None => Self::beside(weights)?,
        };
        let Some(known) = known else { return Ok(Self::assumed(weights, classes)) };
        match known.names.len() {
            names if names == classes => Ok(known),
            names => {
                let weights = weights.display();
                Err(format!("{weights} has {classes} classes, but was trained on data of {names}").into())
            }
        }
    }

    /// A class's name.
    pub fn name(&self, class: usize) -> String {
        self.names[class].clone()
    }

    fn from_provenance(weights: &Path, text: &str) -> Result<Option<Self>, AnyError> {
        let weights = weights.display();
        let provenance =
            Provenance::from_toml(text).map_err(|error| format!("{weights}: its metadata: {error}"))?;
        let statistics = Statistics { mean: provenance.mean, std: provenance.std };
        statistics.validate().map_err(|error| format!("{weights}: its metadata: {error}"))?;
        if provenance.synthetic {
            note_synthetic(&weights);
        }
        let normalize = Normalize::new(statistics);
        Ok(Some(Self { normalize, image_size: provenance.image_size, names: provenance.classes }))
    }

    /// For weights of runs that wrote no provenance.
    fn beside(weights: &Path) -> Result<Option<Self>, AnyError> {
        let recipe = weights.with_file_name("recipe.toml");
        if !recipe.is_file() {
            return Ok(None);
        }
        let recipe = Recipe::from_toml_file(&recipe)?;
        Ok(Some(match recipe.data {
            DataChoice::Cifar10 => Self::cifar(Variant::Cifar10),
            DataChoice::Synthetic => {
                note_synthetic(&weights.display());
                let data = support::synthetic(&recipe);
                Self {
                    normalize: Normalize::new(Statistics::from_split(&data.train)?),
                    image_size: IMAGE_SIZE,
                    names: data.class_names,
                }
            }
            _ => Self::cifar(Variant::Cifar100),
        }))
    }

    fn assumed(weights: &Path, classes: usize) -> Self {
        let (assumed, what) = match classes {
            10 => (Self::cifar(Variant::Cifar10), "its 10 classes are taken for CIFAR-10's"),
            100 => (Self::cifar(Variant::Cifar100), "its 100 classes are taken for CIFAR-100's"),
            _ => {
                let names = (0..classes).map(|class| format!("class {class}")).collect();
                let assumed = Self { names, ..Self::cifar(Variant::Cifar100) };
                (assumed, "its classes have numbers, and pixels are normalized as CIFAR-100's")
            }
        };
        note(format_args!("{} does not say what it was trained on: {what}", weights.display()));
        assumed
    }

    fn cifar(variant: Variant) -> Self {
        let statistics = if variant == Variant::Cifar10 { CIFAR10 } else { CIFAR100 };
        let names = variant.names().iter().copied().map(String::from).collect();
        Self { normalize: Normalize::new(statistics), image_size: IMAGE_SIZE, names }
    }
}

fn note_synthetic(weights: &dyn Display) {
    note(format_args!("{weights} was trained on synthetic images: the classes mean nothing"));
}

fn note(text: Arguments) {
    support::warn(format_args!("note: {text}"));
}

/// Those of CIFAR-10's 50,000 training images, as they are in general use.
const CIFAR10: Statistics =
    Statistics { mean: [0.49139968, 0.48215841, 0.44653091], std: [0.24703223, 0.24348513, 0.26158784] };

/// Those of CIFAR-100's 50,000 training images.
const CIFAR100: Statistics =
    Statistics { mean: [0.50707516, 0.48654887, 0.44091784], std: [0.26733429, 0.25643846, 0.27615047] };
