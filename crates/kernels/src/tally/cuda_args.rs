//! What the kernel of `cuda.cu` takes, as it lays it out.

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Tally {
    pub(super) logits: u64,
    pub(super) labels: u64,
    pub(super) losses: u64,
    pub(super) tally: u64,
    pub(super) rows: u64,
    pub(super) classes: u32,
}
