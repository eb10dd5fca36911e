//! For programs written against candle-datasets.

use candle_core::{DType, Device, Tensor};
use candle_datasets::vision::Dataset;

use crate::{Cifar100, Error, FINE_CLASSES, IMAGE_CHANNELS, IMAGE_SIZE, Result, Split};

/// Both splits as candle-datasets gives CIFAR-10: images `[N, 3, 32, 32]`, f32 in `[0, 1]`, not normalized;
/// fine labels `[N]`, u8; 100 of them. It takes four times the bytes' memory.
impl TryFrom<&Cifar100> for Dataset {
    type Error = Error;

    fn try_from(cifar: &Cifar100) -> Result<Self> {
        Ok(Self {
            train_images: images(&cifar.train)?,
            train_labels: labels(&cifar.train)?,
            test_images: images(&cifar.test)?,
            test_labels: labels(&cifar.test)?,
            labels: FINE_CLASSES,
        })
    }
}

fn images(split: &Split) -> Result<Tensor> {
    let shape = (split.len(), IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE);
    let bytes = Tensor::from_slice(split.images().as_flattened(), shape, &Device::Cpu)?;
    Ok((bytes.to_dtype(DType::F32)? / 255.0)?)
}

fn labels(split: &Split) -> Result<Tensor> {
    Ok(Tensor::from_slice(split.labels(), split.len(), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_has_the_same_images_and_labels() {
        let cifar = Cifar100::synthetic(17, 12, 5);
        let dataset = Dataset::try_from(&cifar).unwrap();
        assert_eq!((dataset.train_images.dims(), dataset.labels), (&[12, 3, 32, 32][..], 100));
        assert_eq!(dataset.test_labels.to_vec1::<u8>().unwrap(), cifar.test.labels());
        let last = dataset.test_images.get(4).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = cifar.test.image(4).map(|byte| f32::from(byte) / 255.0);
        assert!(last.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7));
    }
}
