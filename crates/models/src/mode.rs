/// How a forward pass treats batch normalization and dropout. An argument of every `forward`, never a flag set on the model.
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
    /// A training pass that leaves the running statistics alone: SAM's second pass, whose weights are not the model's
    /// own but lie at the top of the ascent. `num_batches_tracked` counts it nevertheless, as PyTorch's does when the
    /// momentum is set to zero.
    TrainFrozenStatistics,
    /// Inference: a pure function of the input, changing nothing.
    Eval,
}

impl Mode {
    /// Whether batch statistics and dropout are in force.
    pub fn is_training(self) -> bool {
        self != Self::Eval
    }

    /// Whether the running mean and variance move.
    pub fn moves_statistics(self) -> bool {
        self == Self::Train
    }
}
