//! A split: images and labels in memory, shared by its clones.

use std::fmt;
use std::sync::Arc;

use crate::{Error, IMAGE_BYTES, Result};

/// The images of one split with their labels. Cloning and truncating share the bytes.
///
/// An image is 3072 bytes: three planes (red, green, blue) of 32 rows of 32, top to bottom and left to right.
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
        let len = labels.len();
        let (whole, rest) = images.as_chunks::<IMAGE_BYTES>();
        let coarse = coarse_labels.as_ref().map(Vec::len);
        if whole.len() != len || !rest.is_empty() || coarse.is_some_and(|coarse| coarse != len) {
            return Err(Error::Lengths { images: images.len(), labels: len, coarse });
        }
        Ok(Self { columns: Arc::new(SplitData { images, labels, coarse_labels }), len })
    }

    /// The images of all `parts`, one after the other. Each part is given back to the system once copied.
    pub(crate) fn concatenated(mut parts: Vec<Self>) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let len = parts.iter().map(Self::len).sum();
        let mut images = Vec::with_capacity(len * IMAGE_BYTES);
        let mut labels = Vec::with_capacity(len);
        let mut coarse_labels = parts.iter().all(|part| part.coarse_labels().is_some()).then(Vec::new);
        for part in parts {
            images.extend_from_slice(part.images().as_flattened());
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

    /// The bytes of image `index`: planes of red, green and blue, row by row.
    ///
    /// # Panics
    /// As indexing does, if `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[u8; IMAGE_BYTES] {
        &self.images()[index]
    }

    /// All images, in order.
    pub fn images(&self) -> &[[u8; IMAGE_BYTES]] {
        &self.columns.images.as_chunks().0[..self.len]
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
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
