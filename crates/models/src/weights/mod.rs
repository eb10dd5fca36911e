//! The values in a weights file, whether safetensors or PyTorch's, told by the file's first bytes and not by its name.

mod format;
mod pickle;
mod torch;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{SafeTensorError, SafeTensors};

use crate::error::{Error, Result};
use format::Format;
pub(crate) use value::Value;

/// The one key of a safetensors file's metadata that this crate writes. One, because the safetensors crate writes
/// several in random order, and equal values are to give equal bytes.
pub(crate) const METADATA_KEY: &str = "wrn_sam";

/// What a weights file holds.
pub(crate) struct Weights<'a> {
    pub(crate) values: BTreeMap<String, Value<'a>>,
    pub(crate) metadata: Option<String>,
}

/// The whole file. A folder is named as one, because the operating system's answer ("Is a directory") does not say
/// what to do.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        let reason = "a folder: name the file in it, such as model.safetensors".to_string();
        return Err(Error::NotWeights { path: path.to_path_buf(), reason });
    }
    std::fs::read(path).map_err(Error::io("read", path))
}

impl<'a> Weights<'a> {
    /// Reads the bytes of a file. `path` is for errors.
    pub(crate) fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let path = || path.to_path_buf();
        match Format::of(bytes).map_err(|reason| Error::NotWeights { path: path(), reason })? {
            Format::SafeTensors => {
                Self::from_safetensors(bytes).map_err(|source| Error::SafeTensors { path: path(), source })
            }
            Format::PyTorch => {
                let values =
                    torch::values(bytes).map_err(|reason| Error::PyTorch { path: path(), reason })?;
                Ok(Self { values, metadata: None })
            }
        }
    }

    fn from_safetensors(bytes: &'a [u8]) -> std::result::Result<Self, SafeTensorError> {
        let values = SafeTensors::deserialize(bytes)?.tensors();
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY)).cloned();
        let values = values.into_iter().map(|(name, view)| (name, Value::View(view))).collect();
        Ok(Self { values, metadata })
    }
}
