//! What training asks of a network.

use candle_core::{Tensor, Var};
use wrn_sam_models::{Mode, WideResNet};

use crate::error::Result;

/// A network that tells images of some classes apart, as [`step`](crate::step), [`evaluate`](crate::evaluate()) and
/// [`Trainer`](crate::Trainer) train and measure it. [`WideResNet`] is one.
///
/// Only [`forward`](Self::forward) and [`classes`](Self::classes) must be written. A network whose forward pass changes
/// something must also say what, or a step that fails leaves it changed.
///
/// ```
/// use candle_core::{D, Tensor};
/// use candle_nn::{Linear, Module, VarBuilder, linear};
/// use wrn_sam_data::Dataset;
/// use wrn_sam_models::Mode;
/// use wrn_sam_train::{Classifier, Recipe, Result, Trainer};
///
/// /// Logistic regression on the mean color.
/// struct MeanColor(Linear);
///
/// impl Classifier for MeanColor {
///     fn forward(&self, images: &Tensor, _mode: Mode) -> Result<Tensor> {
///         Ok(self.0.forward(&images.mean(D::Minus1)?.mean(D::Minus1)?)?)
///     }
///     fn classes(&self) -> usize {
///         self.0.weight().dims()[0]
///     }
/// }
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let out = folder.path().join("run");
/// let recipe = Recipe::from_toml("epochs = 1\nbatch_size = 32")?;
/// let trainer = Trainer::new(recipe, Dataset::synthetic(17, 64, 32));
/// let trainer = trainer.with_network(|vb, setup| candle_nn::linear(3, setup.classes, vb.pp("linear")).map(MeanColor));
/// let _ = trainer.run(&out)?;
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
pub trait Classifier {
    /// Logits `[N, classes]` of normalized images `[N, 3, S, S]`.
    ///
    /// # Errors
    /// Those of the network. What the pass has changed by then is put back by [`step`](crate::step).
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor>;

    /// How many classes there are.
    fn classes(&self) -> usize;

    /// The network's name, for titles and for the metadata of its weights.
    fn name(&self) -> String {
        "network".into()
    }

    /// The values that a forward pass in [`Mode::Train`] changes, such as running statistics.
    fn buffers(&self) -> Vec<Var> {
        Vec::new()
    }

    /// The seed that dropout is drawn from, and the number of the next training pass. A network without dropout keeps
    /// the default.
    fn dropout_position(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Sets both: the next training pass then drops what the pass of that number has dropped before.
    fn seek_dropout(&self, _seed: u64, _pass: u64) {}
}

impl Classifier for WideResNet {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.forward(images, mode)?)
    }

    fn classes(&self) -> usize {
        self.config().classes
    }

    /// `WRN-depth-width`.
    fn name(&self) -> String {
        format!("WRN-{}-{}", self.config().depth, self.config().width_factor)
    }

    fn buffers(&self) -> Vec<Var> {
        self.buffers()
    }

    fn dropout_position(&self) -> (u64, u64) {
        self.dropout_position()
    }

    fn seek_dropout(&self, seed: u64, pass: u64) {
        self.seek_dropout(seed, pass);
    }
}
