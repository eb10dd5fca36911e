/// How a forward pass treats batch normalization and dropout: an argument of every `forward`, never a flag set on the model.
///
/// | | normalizes with | running mean and variance | `num_batches_tracked` | dropout |
/// |---|---|---|---|---|
/// | [`Train`](Mode::Train) | the batch's statistics | move | counts | on |
/// | [`TrainFrozenStatistics`](Mode::TrainFrozenStatistics) | the batch's statistics | stay | counts | on |
/// | [`Eval`](Mode::Eval) | the running statistics | stay | stays | off |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A training pass: the first of SAM's two.
    Train,
    /// A training pass that does not move the running mean and variance: SAM's second pass, which runs with the weights at
    /// the top of the ascent instead of the model's own. `num_batches_tracked` still counts it, as PyTorch's does when the
    /// momentum is set to zero.
    TrainFrozenStatistics,
    /// Inference: a pure function of the input, changing nothing.
    Eval,
}

impl Mode {
    /// What `train` of candle's [`ModuleT`](candle_nn::ModuleT) says: [`Train`](Self::Train) or [`Eval`](Self::Eval).
    pub(crate) fn from_train(train: bool) -> Self {
        if train { Self::Train } else { Self::Eval }
    }

    /// Whether batch statistics and dropout are in force.
    pub fn is_training(self) -> bool {
        self != Self::Eval
    }

    /// Whether the running mean and variance move.
    pub fn moves_statistics(self) -> bool {
        self == Self::Train
    }
}
