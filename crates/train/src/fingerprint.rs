//! MD5 sums that tell images and checkpoints apart: a guard against accidents, not against attacks.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use md5::{Digest, Md5};
use safetensors::View;
use wrn_sam_data::{Dataset, hex};

use crate::error::{Error, Result};

/// The images and fine labels of both splits, as 32 hexadecimal digits.
pub(crate) fn of_images(data: &Dataset) -> String {
    let mut hash = Md5::new();
    for split in [&data.train, &data.test] {
        hash.update((split.len() as u64).to_le_bytes());
        hash.update(split.bytes());
        hash.update(split.labels());
    }
    hex(&hash.finalize())
}

/// The bytes of a file.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let mut hash = Md5::new();
    hash.update(std::fs::read(path).map_err(Error::io("read", path))?);
    Ok(hex(&hash.finalize()))
}

/// A text and lists of named tensors, in their order.
pub(crate) fn of_named(text: &str, lists: &[(&str, Vec<(String, Tensor)>)]) -> Result<String> {
    let mut hash = Md5::new();
    hash.update(text);
    for (name, tensor) in lists.iter().flat_map(|(_, list)| list) {
        hash.update(format!("\n{name} {:?} {:?} ", tensor.dtype(), tensor.dims()));
        let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
        hash.update(View::data(&tensor));
    }
    Ok(hex(&hash.finalize()))
}

/// A text and named tensors: names, types, shapes and bytes.
pub(crate) fn of_tensors<V: View>(text: &str, tensors: &BTreeMap<String, V>) -> String {
    let mut hash = Md5::new();
    hash.update(text);
    for (name, tensor) in tensors {
        hash.update(format!("\n{name} {:?} {:?} ", tensor.dtype(), tensor.shape()));
        hash.update(tensor.data());
    }
    hex(&hash.finalize())
}
