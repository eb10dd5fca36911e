//! A page about weights for people who find them on the Hugging Face hub.

use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::provenance::Provenance;

/// The folder that is laid out as a model repository of the hub.
pub(crate) const FOLDER: &str = "hub";

impl Provenance {
    /// The README.md of a model repository on the Hugging Face hub: its metadata in YAML, and what the weights are in words.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let out = folder.path().join("run");
    /// # use wrn_sam_data::Dataset;
    /// # use wrn_sam_train::{Provenance, Recipe, Trainer};
    /// # let recipe = Recipe::from_toml("depth = 10\nwidth_factor = 1\nepochs = 1\nbatch_size = 32")?;
    /// # let _ = Trainer::new(recipe, Dataset::synthetic(17, 64, 32)).run(&out)?;
    /// let provenance = Provenance::from_weights(&out.join("model.safetensors"))?.expect("weights of a run");
    /// let card = provenance.model_card()?;
    /// assert!(card.starts_with("---\nlibrary_name: candle\n") && card.contains("# WRN-10-1"));
    /// # Ok::<(), wrn_sam_train::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a recipe that is not valid.
    pub fn model_card(&self) -> Result<String> {
        let Self { version, network, data, image_size, epoch, recipe, .. } = self;
        // JSON's strings are YAML's too.
        let quoted = |text: &str| json!(text).to_string();
        let on_hub = match data.as_str() {
            "CIFAR-10" => Some("uoft-cs/cifar10"),
            "CIFAR-100" => Some("uoft-cs/cifar100"),
            _ => None,
        };
        let dataset = on_hub.map_or(String::new(), |id| format!("datasets:\n- {id}\n"));
        let words = data.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let id = on_hub.map_or_else(|| words.collect::<Vec<_>>().join("-").to_lowercase(), String::from);
        let figures = [("test", self.test_top1), ("validation", self.validation_top1)];
        let figures: Vec<_> = figures.into_iter().filter_map(|(split, top1)| Some((split, top1?))).collect();
        let mut results = String::new();
        for (split, top1) in &figures {
            results += &format!(
                "  - task:\n      type: image-classification\n    dataset:\n      name: {}\n      type: {}\n      split: {split}\n    \
                 metrics:\n    - type: accuracy\n      value: {top1:.4}\n",
                quoted(data),
                quoted(&id),
            );
        }
        let index = match results.is_empty() {
            true => String::new(),
            false => format!("model-index:\n- name: {}\n  results:\n{results}", quoted(network)),
        };
        let figures = figures
            .iter()
            .map(|(split, top1)| format!("| top-1, {split} images | {:.2} % |\n", 100.0 * top1));
        let figures: String = figures.collect();
        let synthetic = match self.synthetic {
            true => {
                "\nThe images are generated: the classes mean nothing, and the figures say nothing about photographs.\n"
            }
            false => "",
        };
        let [mean, std] =
            [self.mean, self.std].map(|values| values.map(|value| format!("{value:.4}")).join(", "));
        let sam = match (recipe.rho, recipe.adaptive) {
            (0.0, _) => "SGD".into(),
            (rho, true) => format!("SGD with adaptive sharpness-aware minimization (ASAM, rho {rho})"),
            (rho, false) => format!("SGD with sharpness-aware minimization (SAM, rho {rho})"),
        };
        let recipe = toml::to_string(&recipe.results_only()?)
            .map_err(|error| Error::Toml { message: error.to_string() })?;
        let classes = self.classes.join(", ");
        Ok(format!(
            "---\nlibrary_name: candle\npipeline_tag: image-classification\ntags:\n- wide-resnet\n- sharpness-aware-minimization\n\
             - wrn-sam\n{dataset}metrics:\n- accuracy\n{index}---\n\n\
             # {network}, {data}\n\n\
             A network for images of {image_size}x{image_size} pixels in {count} classes, trained on {data} for {epoch} epochs by \
             {sam}, with [wrn-sam](https://github.com/wrn-sam/wrn-sam) {version}.\n{synthetic}\n\
             | figure | value |\n|---|---|\n{figures}| channels' mean | {mean} |\n| channels' standard deviation | {std} |\n\
             | MD5 of all images and labels | {md5} |\n\n\
             ## Use\n\n\
             Weights have the names of PyTorch's modules, in `model.safetensors`. Pixels are scaled to 0 to 1 and normalized by the \
             mean and deviation above.\n\n\
             ```text\ncargo run --release --example predict -- model.safetensors photo.jpg\n```\n\n\
             ## Training\n\n```toml\n{recipe}```\n\n## Classes\n\n{classes}\n",
            count = self.classes.len(),
            md5 = self.images_md5,
        ))
    }

    /// config.json: what a program needs to build the network and its input.
    fn config_json(&self) -> String {
        let labels: serde_json::Map<_, _> =
            self.classes.iter().enumerate().map(|(class, name)| (class.to_string(), json!(name))).collect();
        let config = json!({
            "architecture": self.network,
            "depth": self.recipe.depth,
            "width_factor": self.recipe.width_factor,
            "dropout": self.recipe.dropout,
            "num_classes": self.classes.len(),
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "id2label": labels,
        });
        format!("{config:#}\n")
    }

    /// Lays out the folder of a model repository for the weights in the file `weights`: README.md, config.json and
    /// model.safetensors.
    pub(crate) fn write_repository(&self, weights: &Path, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let weights = std::fs::read(weights).map_err(Error::io("read", weights))?;
        let (card, config) = (self.model_card()?, self.config_json());
        let files = [
            ("README.md", card.as_bytes()),
            ("config.json", config.as_bytes()),
            ("model.safetensors", &weights),
        ];
        for (name, bytes) in files {
            wrn_sam_files::write(folder.join(name), |file| file.write_all(bytes))?;
        }
        Ok(())
    }
}
