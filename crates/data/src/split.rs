//! A split: images and labels in memory, shared by its clones.

use std::fmt;
use std::slice::ChunksExact;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use rand::seq::SliceRandom;
use wrn_sam_kernels::OutOfRange;

use crate::random::{Purpose, stream};
use crate::{Error, IMAGE_CHANNELS, IMAGE_SIZE, MAX_IMAGE_SIZE, Result};

/// The images of one split with their labels. Cloning and truncating share the bytes.
///
/// Images are square and of one size, 32x32 unless made with another. An image is bytes: three planes (red, green, blue) of
/// rows, top to bottom and left to right.
///
/// ```
/// use wrn_sam_data::{Split, IMAGE_BYTES};
///
/// let split = Split::new(vec![0; 2 * IMAGE_BYTES], vec![7, 9], None)?;
/// assert_eq!((split.len(), split.label(1)), (2, 9));
/// assert_eq!(split.truncated(1).len(), 1);
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Split {
    columns: Arc<SplitData>,
    len: usize,
}

struct SplitData {
    image_size: usize,
    images: Vec<u8>,
    labels: Vec<u8>,
    coarse_labels: Option<Vec<u8>>,
}

impl Split {
    /// A split of `images` (3072 bytes each, planes of red, green and blue) with a label each, and a coarse
    /// label each if there are any.
    ///
    /// The labels are taken as they are; the readers of this crate check theirs.
    ///
    /// # Errors
    /// [`Error::Lengths`] where their numbers do not agree.
    pub fn new(images: Vec<u8>, labels: Vec<u8>, coarse_labels: Option<Vec<u8>>) -> Result<Self> {
        Self::of_size(IMAGE_SIZE, images, labels, coarse_labels)
    }

    /// As [`new`](Self::new), of images of `image_size` by `image_size` pixels: 1 to 1024.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for another size; [`Error::Lengths`].
    pub fn of_size(
        image_size: usize,
        images: Vec<u8>,
        labels: Vec<u8>,
        coarse_labels: Option<Vec<u8>>,
    ) -> Result<Self> {
        let fits = (1..=MAX_IMAGE_SIZE).contains(&image_size);
        OutOfRange::check("image size", image_size, fits, "from 1 to 1024")?;
        let (len, image_bytes) = (labels.len(), IMAGE_CHANNELS * image_size * image_size);
        let coarse = coarse_labels.as_ref().map(Vec::len);
        if len.checked_mul(image_bytes) != Some(images.len()) || coarse.is_some_and(|coarse| coarse != len) {
            return Err(Error::Lengths { image_bytes, images: images.len(), labels: len, coarse });
        }
        Ok(Self { columns: Arc::new(SplitData { image_size, images, labels, coarse_labels }), len })
    }

    /// The images of a tensor `[N, 3, S, S]` (red, green, blue), bytes in u8 or values of 0 to 1 in a float type, and their
    /// labels `[N]` of an integer type, 0 to 255.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use wrn_sam_data::Split;
    ///
    /// let images = Tensor::rand(0f32, 1f32, (5, 3, 64, 64), &Device::Cpu)?;
    /// let split = Split::from_tensors(&images, &Tensor::new(&[0u32, 1, 2, 1, 0], &Device::Cpu)?)?;
    /// assert_eq!((split.len(), split.image_size(), split.label(2)), (5, 64, 2));
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Tensors`] for other shapes and for values out of these ranges; [`Error::Candle`].
    pub fn from_tensors(images: &Tensor, labels: &Tensor) -> Result<Self> {
        let fail = |reason: String| Err(Error::Tensors { reason });
        let &[len, IMAGE_CHANNELS, size, width] = images.dims() else {
            return fail(format!("images {:?}, [N, 3, S, S] expected", images.dims()));
        };
        if size != width || labels.dims() != [len] {
            return fail(format!(
                "images {:?} and labels {:?}, [N, 3, S, S] and [N] expected",
                images.dims(),
                labels.dims()
            ));
        }
        let images = match images.dtype() {
            DType::U8 => images.flatten_all()?.to_vec1::<u8>()?,
            dtype if dtype.is_float() => {
                let values = images.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                if let Some(value) = values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
                    return fail(format!("a pixel of {value}, 0 to 1 expected in {dtype:?}"));
                }
                values.into_iter().map(|value| (255.0 * value).round() as u8).collect()
            }
            dtype => return fail(format!("images in {dtype:?}, bytes or a float type expected")),
        };
        if !labels.dtype().is_int() {
            return fail(format!("labels in {:?}, an integer type expected", labels.dtype()));
        }
        let labels = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        match labels.iter().map(|&label| u8::try_from(label).map_err(|_| label)).collect() {
            Ok(labels) => Self::of_size(size, images, labels, None),
            Err(label) => fail(format!("a label of {label}, 0 to 255 expected")),
        }
    }

    /// The images of all `parts`, one after the other. Each part is given back to the system once copied.
    pub(crate) fn concatenated(mut parts: Vec<Self>) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let len = parts.iter().map(Self::len).sum();
        let mut images = Vec::with_capacity(parts.iter().map(|part| part.bytes().len()).sum());
        let mut labels = Vec::with_capacity(len);
        let mut coarse_labels = parts.iter().all(|part| part.coarse_labels().is_some()).then(Vec::new);
        for part in parts {
            images.extend_from_slice(part.bytes());
            labels.extend_from_slice(part.labels());
            if let (Some(all), Some(coarse)) = (&mut coarse_labels, part.coarse_labels()) {
                all.extend_from_slice(coarse);
            }
        }
        Self::new(images, labels, coarse_labels)
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The images' side in pixels.
    pub fn image_size(&self) -> usize {
        self.columns.image_size
    }

    /// The bytes of an image.
    fn image_bytes(&self) -> usize {
        IMAGE_CHANNELS * self.image_size() * self.image_size()
    }

    /// The bytes of image `index`: planes of red, green and blue, row by row.
    ///
    /// # Panics
    /// As indexing does, if `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8] {
        &self.bytes()[index * self.image_bytes()..][..self.image_bytes()]
    }

    /// All images, in order.
    pub fn images(&self) -> ChunksExact<'_, u8> {
        self.bytes().chunks_exact(self.image_bytes())
    }

    /// The bytes of all images, in order.
    pub fn bytes(&self) -> &[u8] {
        &self.columns.images[..self.len * self.image_bytes()]
    }

    /// The (fine) label of image `index`: 0 to 99 in CIFAR-100, 0 to 9 in CIFAR-10.
    ///
    /// # Panics
    /// As indexing does, if `index` is not below [`len`](Self::len).
    pub fn label(&self, index: usize) -> u8 {
        self.labels()[index]
    }

    /// All (fine) labels, in order.
    pub fn labels(&self) -> &[u8] {
        &self.columns.labels[..self.len]
    }

    /// All coarse labels (superclasses) in order, 0 to 19 in CIFAR-100; CIFAR-10 has none.
    pub fn coarse_labels(&self) -> Option<&[u8]> {
        self.columns.coarse_labels.as_ref().map(|labels| &labels[..self.len])
    }

    /// The first `limit` images, or all where there are no more than that. Copies nothing.
    #[must_use]
    pub fn truncated(&self, limit: usize) -> Self {
        Self { columns: Arc::clone(&self.columns), len: self.len.min(limit) }
    }

    /// A copy of the images at `indices`, in this order.
    ///
    /// # Panics
    /// As indexing does, if an index is not below [`len`](Self::len).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let images = indices.iter().flat_map(|&index| self.image(index)).copied().collect();
        let pick = |labels: &[u8]| indices.iter().map(|&index| labels[index]).collect::<Vec<_>>();
        let columns = SplitData {
            image_size: self.image_size(),
            images,
            labels: pick(self.labels()),
            coarse_labels: self.coarse_labels().map(pick),
        };
        Self { columns: Arc::new(columns), len: indices.len() }
    }

    /// Divides the images in two parts: all but `held_out` images, and these. Both keep the order of the images.
    ///
    /// Which images are held out is drawn from `seed`, in each class about the same share: the class's share of `held_out`,
    /// rounded down, and one more in the classes with the largest remainders, the first of equals.
    ///
    /// ```
    /// let train = wrn_sam_data::Dataset::synthetic(17, 1000, 0).train; // ten images of each class
    /// let (rest, validation) = train.hold_out(200, 3)?;
    /// assert_eq!((rest.len(), validation.len()), (800, 200));
    /// assert_eq!(validation.labels().iter().filter(|&&label| label == 42).count(), 2);
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where no image would be left.
    pub fn hold_out(&self, held_out: usize, seed: u64) -> Result<(Self, Self)> {
        OutOfRange::check(
            "held-out images",
            held_out,
            held_out < self.len.max(1),
            "fewer than there are images",
        )?;
        let mut classes = vec![Vec::new(); 256];
        for (index, &label) in self.labels().iter().enumerate() {
            classes[usize::from(label)].push(index);
        }
        let share = |class: &Vec<usize>| class.len() as u128 * held_out as u128;
        let len = self.len.max(1) as u128;
        let mut counts: Vec<usize> = classes.iter().map(|class| (share(class) / len) as usize).collect();
        let mut by_remainder: Vec<usize> = (0..classes.len()).collect();
        by_remainder.sort_by_key(|&class| std::cmp::Reverse(share(&classes[class]) % len)); // stable
        let missing = held_out - counts.iter().sum::<usize>();
        for &class in &by_remainder[..missing] {
            counts[class] += 1;
        }
        let mut is_held_out = vec![false; self.len];
        for (class, (mut images, count)) in classes.into_iter().zip(counts).enumerate() {
            images.shuffle(&mut stream(seed, Purpose::HoldOut, class as u64, 0));
            for &index in &images[..count] {
                is_held_out[index] = true;
            }
        }
        let part = |held_out: bool| {
            let indices: Vec<usize> = (0..self.len).filter(|&index| is_held_out[index] == held_out).collect();
            self.select(&indices)
        };
        Ok((part(false), part(true)))
    }
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split")
            .field("len", &self.len)
            .field("image_size", &self.image_size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IMAGE_BYTES;

    #[test]
    fn lengths_must_fit() {
        let message = Split::new(vec![0; IMAGE_BYTES + 1], vec![0], Some(vec![0])).unwrap_err().to_string();
        assert!(message.starts_with("3073 bytes of images with 1 labels and 1 coarse labels"), "{message}");
        assert!(Split::new(vec![0; IMAGE_BYTES], vec![0], Some(vec![])).is_err());
        assert!(Split::new(vec![], vec![0], None).is_err());
        assert!(Split::new(vec![], vec![], None).unwrap().is_empty());
    }

    #[test]
    fn truncating_keeps_the_first() {
        let images = [1, 2, 3].into_iter().flat_map(|byte| [byte; IMAGE_BYTES]).collect();
        let split = Split::new(images, vec![10, 11, 12], Some(vec![0, 1, 2])).unwrap();
        let two = split.truncated(2);
        assert_eq!((two.len(), two.labels(), two.coarse_labels()), (2, &[10, 11][..], Some(&[0, 1][..])));
        assert_eq!(two.image(1), &[2; IMAGE_BYTES]);
        assert_eq!(two.truncated(5).len(), 2);
        assert!(two.truncated(0).is_empty());
    }

    #[test]
    fn parts_are_put_together_in_order() {
        let part =
            |byte: u8, coarse| Split::new(vec![byte; IMAGE_BYTES], vec![byte], coarse).expect("one of each");
        let both = Split::concatenated(vec![part(1, Some(vec![3])), part(2, Some(vec![4]))]).unwrap();
        assert_eq!((both.labels(), both.coarse_labels()), (&[1, 2][..], Some(&[3, 4][..])));
        assert_eq!(both.image(1), &[2; IMAGE_BYTES]);
        assert_eq!(Split::concatenated(vec![part(1, None), part(2, None)]).unwrap().coarse_labels(), None);
    }
}
