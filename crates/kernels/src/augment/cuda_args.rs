//! What the kernel of `cuda.cu` takes, as it lays it out.

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Augment {
    pub(super) images: u64,
    pub(super) labels: u64,
    pub(super) order: u64,
    pub(super) values: u64,
    pub(super) out: u64,
    pub(super) out_labels: u64,
    pub(super) first: u64,
    pub(super) seed: u64,
    pub(super) flip_below: u64,
    pub(super) cutout_below: u64,
    pub(super) epoch: u32,
    pub(super) padding: u32,
    pub(super) cutout: u32,
    pub(super) bf16_out: u32,
    pub(super) channels: u32,
    pub(super) height: u32,
    pub(super) width: u32,
}

impl Augment {
    /// The numbers of the draws and the dimensions; addresses are null.
    pub(super) fn new(draws: &super::Draws, dims: [usize; 3], epoch: u32, first: u64) -> Self {
        let [channels, height, width] = dims.map(|size| size as u32);
        Self {
            images: 0,
            labels: 0,
            order: 0,
            values: 0,
            out: 0,
            out_labels: 0,
            first,
            seed: draws.seed,
            flip_below: super::threshold(draws.flip),
            cutout_below: super::threshold(draws.cutout),
            epoch,
            padding: draws.padding,
            cutout: draws.cutout_size,
            bf16_out: 0,
            channels,
            height,
            width,
        }
    }
}
