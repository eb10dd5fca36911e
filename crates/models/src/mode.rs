use std::num::NonZeroU32;

/// How a forward pass treats batch normalization and dropout: an argument of every `forward`, never a flag set on the model.
///
/// | | normalizes with | running mean and variance | `num_batches_tracked` | dropout | gradients |
/// |---|---|---|---|---|---|
/// | [`Train`](Mode::Train) | the batch's statistics | move | counts | on | yes |
/// | [`TrainMoving`](Mode::TrainMoving) | the batch's statistics | move by a share | counts | on | yes |
/// | [`TrainFrozenStatistics`](Mode::TrainFrozenStatistics) | the batch's statistics | stay | counts | on | yes |
/// | [`Eval`](Mode::Eval) | the running statistics | stay | stays | off | no |
/// | [`EvalWithGradients`](Mode::EvalWithGradients) | the running statistics | stay | stays | off | yes |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A training pass: the first of SAM's two.
    Train,
    /// A training pass that does not move the running mean and variance: SAM's second pass, which runs with the weights at
    /// the top of the ascent instead of the model's own. `num_batches_tracked` still counts it, as PyTorch's does when the
    /// momentum is set to zero.
    TrainFrozenStatistics,
    /// A training pass that moves the running mean and variance by 1/`one_in` of the way to the batch's, where
    /// [`Train`](Self::Train) moves them by 1/10. [`part`](Self::part) gives what a step over micro-batches takes; 1, 2, 3, …
    /// in the passes over some batches make the running statistics the mean of the batches', which is how they are estimated
    /// anew for other weights.
    TrainMoving {
        /// At least 1.
        one_in: NonZeroU32,
    },
    /// Inference: a pure function of the input, changing nothing. The result is outside of candle's graph.
    Eval,
    /// The function of [`Eval`](Self::Eval) and its gradients, through which the running statistics are constants: for
    /// fine-tuning, where batches are small or parts are frozen, and for measures of the loss's shape.
    EvalWithGradients,
}

impl Mode {
    /// The first pass of micro-batch `part`, from 0, of `parts`. Taken in order, these move the running statistics once by 1/10
    /// of the way to the mean of the micro-batches': part k from 1 by 1 / (9 parts + k). With one part it is
    /// [`Train`](Self::Train).
    ///
    /// ```
    /// use wrn_sam_models::Mode;
    /// let mut running = 1.0;
    /// for (part, batch) in [3.0, 5.0].into_iter().enumerate() {
    ///     running += (batch - running) * Mode::part(part, 2).momentum();
    /// }
    /// assert!((running - (0.9 * 1.0 + 0.1 * 4.0)).abs() < 1e-12);
    /// ```
    pub fn part(part: usize, parts: usize) -> Self {
        let one_in = parts.saturating_mul(9).saturating_add(part).saturating_add(1);
        let one_in = NonZeroU32::new(u32::try_from(one_in).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        Self::TrainMoving { one_in }
    }

    /// What share of the way to the batch's statistics the running ones move.
    pub fn momentum(self) -> f64 {
        match self {
            Self::Train => 0.1,
            Self::TrainMoving { one_in } => 1.0 / f64::from(one_in.get()),
            Self::TrainFrozenStatistics | Self::Eval | Self::EvalWithGradients => 0.0,
        }
    }

    /// What `train` of candle's [`ModuleT`](candle_nn::ModuleT) says: [`Train`](Self::Train) or [`Eval`](Self::Eval).
    pub(crate) fn from_train(train: bool) -> Self {
        if train { Self::Train } else { Self::Eval }
    }

    /// Whether batch statistics and dropout are in force.
    pub fn is_training(self) -> bool {
        !matches!(self, Self::Eval | Self::EvalWithGradients)
    }

    /// Whether the running mean and variance move.
    pub fn moves_statistics(self) -> bool {
        matches!(self, Self::Train | Self::TrainMoving { .. })
    }

    /// Whether the result has gradients.
    pub fn has_gradients(self) -> bool {
        self != Self::Eval
    }
}
