//! For programs written against candle-datasets.

use candle_core::{DType, Device, Tensor};
use candle_datasets::vision;

use crate::{Dataset, Error, IMAGE_CHANNELS, Result, Split};

/// Both splits in memory at once, four times the bytes': images `[N, 3, S, S]` (rows, then columns), f32 in
/// `[0, 1]`, not normalized; labels `[N]`, u32, as losses want them; the number of classes.
///
/// # Errors
/// [`Error::Candle`].
impl TryFrom<&Dataset> for vision::Dataset {
    type Error = Error;

    fn try_from(data: &Dataset) -> Result<Self> {
        Ok(Self {
            train_images: images(&data.train)?,
            train_labels: labels(&data.train)?,
            test_images: images(&data.test)?,
            test_labels: labels(&data.test)?,
            labels: data.classes(),
        })
    }
}

fn images(split: &Split) -> Result<Tensor> {
    let shape = (split.len(), IMAGE_CHANNELS, split.image_size(), split.image_size());
    let bytes = Tensor::from_slice(split.bytes(), shape, &Device::Cpu)?;
    Ok((bytes.to_dtype(DType::F32)? / 255.0)?)
}

fn labels(split: &Split) -> Result<Tensor> {
    Ok(Tensor::from_slice(split.labels(), split.len(), &Device::Cpu)?.to_dtype(DType::U32)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_has_the_same_images_and_labels() {
        let cifar = Dataset::synthetic(17, 12, 5);
        let dataset = vision::Dataset::try_from(&cifar).unwrap();
        assert_eq!((dataset.train_images.dims(), dataset.labels), (&[12, 3, 32, 32][..], 100));
        let labels: Vec<u8> =
            dataset.test_labels.to_vec1::<u32>().unwrap().iter().map(|&label| label as u8).collect();
        assert_eq!(labels, cifar.test.labels());
        let last = dataset.test_images.get(4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = cifar.test.image(4).iter().map(|&byte| f32::from(byte) / 255.0);
        assert!(last.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7));
        // Channel, row, column.
        let pixel = dataset.train_images.get(7).unwrap().get(1).unwrap().get(2).unwrap().get(3).unwrap();
        let expected = f32::from(cifar.train.image(7)[1024 + 2 * 32 + 3]) / 255.0;
        assert!((pixel.to_scalar::<f32>().unwrap() - expected).abs() < 1e-7);
    }
}
