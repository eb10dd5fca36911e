//! What an operation tells whoever profiles it.

use std::fmt::Display;

use tracing::span::EnteredSpan;

/// What an operation costs at least.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Floating-point operations by definition: of a convolution, the direct algorithm's.
    pub flops: u64,
    /// Floating-point operations of the algorithm that is used.
    pub computed: u64,
    /// Bytes that must be read and written, if every operand moves once.
    pub bytes: u64,
}

impl Cost {
    /// Of passing `streams` times over `len` elements, computing next to nothing.
    pub fn passes(streams: usize, len: usize) -> Self {
        Self { bytes: (streams * len * size_of::<f32>()) as u64, ..Self::default() }
    }
}

/// A span for as long as the result lives. Where nobody listens, it costs a load and a branch.
pub(crate) fn enter(operation: &'static str, shape: impl Display, cost: Cost) -> EnteredSpan {
    let Cost { flops, computed, bytes } = cost;
    tracing::trace_span!("kernel", operation, %shape, flops, computed, bytes).entered()
}
