//! Batches made where the network runs: the split's bytes stay on the device, and one kernel makes a batch of them.

use std::ops::Range;

use candle_core::{DType, Device};
use wrn_sam_kernels::OutOfRange;
use wrn_sam_kernels::augment::{ByteImages, Draws, Order};

use crate::{Augmentation, Batch, Cutout, Result, Split};

/// A split on the device, with what is drawn for its images.
#[derive(Clone, Debug)]
pub(crate) struct OnDevice {
    images: ByteImages,
    draws: Draws,
}

impl OnDevice {
    /// What `augmentation` has that there is no kernel for.
    pub(crate) fn missing(augmentation: &Augmentation) -> Option<&'static str> {
        augmentation.policy.map(|_| "a policy of operations")
    }

    /// Copies the split's bytes to `device`. Nothing of `augmentation` may be [`missing`](Self::missing).
    pub(crate) fn new(
        split: &Split,
        augmentation: &Augmentation,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let Cutout { size, p } = augmentation.cutout.unwrap_or(Cutout { size: 1, p: 0.0 });
        let side = split.image_size();
        let draws = Draws {
            seed,
            padding: augmentation.crop.padding as u32,
            flip: augmentation.flip.p,
            cutout: p,
            // A square of this side covers the image wherever it is, as any larger one does.
            cutout_size: size.min(2 * side) as u32,
        };
        let values: [[f32; 256]; 3] = std::array::from_fn(|channel| {
            std::array::from_fn(|byte| augmentation.normalize.value(channel, byte as u8))
        });
        let images = ByteImages::new(split.bytes(), [side, side], split.labels(), &values, device)?;
        Ok(Self { images, draws })
    }

    /// An epoch's order, sent to the device.
    pub(crate) fn order(&self, order: &[usize]) -> Result<Order> {
        let order: Vec<u32> = order.iter().map(|&image| image as u32).collect();
        Ok(self.images.order(&order)?)
    }

    /// The batch of the images at `positions` of epoch `epoch`, which must be below 2^32.
    pub(crate) fn batch(&self, order: &Order, epoch: usize, positions: Range<usize>) -> Result<Batch> {
        let number = u32::try_from(epoch);
        let number = number.map_err(|_| OutOfRange::new("epoch", epoch, "below 2^32 on a device"))?;
        let (images, labels) =
            self.images.augment(order, &self.draws, number, positions.start, positions.len(), DType::F32)?;
        Ok(Batch::new(images, labels))
    }
}
