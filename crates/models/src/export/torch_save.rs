//! A state dict as `torch.save` writes it: a zip archive with a pickle of the names and shapes, and a member for the elements
//! of each tensor.

use std::io::{Cursor, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::View;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::{Error, Result};

/// Writes a state dict, such as [`Parameters::state`](crate::Parameters::state)'s, to a file that PyTorch reads without
/// another package: `model.load_state_dict(torch.load(path))`. [`Parameters::load`](crate::Parameters::load) reads it too.
/// Equal values give equal bytes.
///
/// ```
/// use candle_core::{DType, Device};
/// use wrn_sam_models::{BatchNorm, Parameters, save_pytorch};
///
/// let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
/// BatchNorm::new(3, parameters.var_builder())?;
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("model.pth");
/// save_pytorch(&path, &parameters.state()?)?;
/// parameters.load(&path)?;
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] where the folder is missing, full or not writable, and an existing file stays; [`Error::PyTorch`] for an
/// element type that PyTorch does not have.
pub fn save_pytorch(path: impl AsRef<Path>, state: &[(String, Tensor)]) -> Result<()> {
    let path = path.as_ref();
    let mut pickle = Pickle::default();
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let mut member = |name: &str, content: &[u8]| -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(u32::try_from(content.len()).is_err());
        archive.start_file(format!("archive/{name}"), options).map_err(candle_core::Error::wrap)?;
        archive.write_all(content).map_err(Error::io("write", path))
    };
    for (key, (name, tensor)) in state.iter().enumerate() {
        let storage = storage(tensor.dtype()).ok_or_else(|| {
            let reason = format!("{name} is {:?}, which PyTorch does not have", tensor.dtype());
            Error::PyTorch { path: path.to_path_buf(), reason }
        })?;
        let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
        member(&format!("data/{key}"), &View::data(&&tensor))?;
        pickle.entry(name, storage, key, &tensor);
    }
    member("data.pkl", &pickle.into_bytes())?;
    member("byteorder", b"little")?;
    member("version", b"3\n")?;
    let bytes = archive.finish().map_err(candle_core::Error::wrap)?.into_inner();
    Ok(wrn_sam_files::write(path, |file| file.write_all(&bytes))?)
}

/// PyTorch's class of a tensor's elements.
fn storage(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F32 => "FloatStorage",
        DType::F64 => "DoubleStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::U8 => "ByteStorage",
        _ => return None,
    })
}

/// The pickle of an ordered dict, in protocol 2, as it grows by its entries.
struct Pickle(Vec<u8>);

// The operations of pickles, by their names in Python's pickletools.
const PROTO_2: &[u8] = b"\x80\x02";
const MARK: u8 = b'(';
const TUPLE: u8 = b't';
const REDUCE: u8 = b'R';
const BINPERSID: u8 = b'Q';
const NEWFALSE: u8 = 0x89;
const EMPTY_ORDERED_DICT: &[u8] = b"ccollections\nOrderedDict\n)R";

impl Default for Pickle {
    fn default() -> Self {
        Self([PROTO_2, EMPTY_ORDERED_DICT, &[MARK]].concat())
    }
}

impl Pickle {
    /// `name: _rebuild_tensor_v2(storage `key`, 0, shape, strides, False, OrderedDict())`.
    fn entry(&mut self, name: &str, storage: &str, key: usize, tensor: &Tensor) {
        self.text(name);
        self.0.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n");
        self.0.push(MARK);

        self.0.push(MARK);
        self.text("storage");
        self.0.extend_from_slice(format!("ctorch\n{storage}\n").as_bytes());
        self.text(&key.to_string());
        self.text("cpu");
        self.integer(tensor.elem_count());
        self.0.extend([TUPLE, BINPERSID]);

        self.integer(0);
        self.integers(tensor.dims());
        self.integers(tensor.stride());
        self.0.push(NEWFALSE);
        self.0.extend_from_slice(EMPTY_ORDERED_DICT);
        self.0.extend([TUPLE, REDUCE]);
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn integer(&mut self, value: usize) {
        match i32::try_from(value) {
            Ok(value) => {
                self.0.push(b'J');
                self.0.extend(value.to_le_bytes());
            }
            // LONG1, of eight bytes
            Err(_) => {
                self.0.extend([0x8a, 8]);
                self.0.extend((value as i64).to_le_bytes());
            }
        }
    }

    fn integers(&mut self, values: &[usize]) {
        self.0.push(MARK);
        values.iter().for_each(|&value| self.integer(value));
        self.0.push(TUPLE);
    }

    /// Ends the dict and the pickle.
    fn into_bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"u.");
        self.0
    }
}
