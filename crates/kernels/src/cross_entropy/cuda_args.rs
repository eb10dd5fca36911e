//! What the kernels of `cuda.cu` take, as they lay it out.

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct CrossEntropy {
    pub(super) logits: u64,
    pub(super) labels: u64,
    pub(super) loss: u64,
    pub(super) gradient: u64,
    pub(super) rows: u64,
    pub(super) classes: u32,
    pub(super) on: f32,
    pub(super) off: f32,
    pub(super) constant: f32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct ScaleRows {
    pub(super) rows: u64,
    pub(super) factors: u64,
    pub(super) out: u64,
    pub(super) len: u64,
    pub(super) classes: u32,
}

/// Rows of a block of `cross_entropy`, one warp each.
pub(super) const ROWS: usize = 4;
