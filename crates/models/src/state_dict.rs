//! State dicts: what is written, and what is checked before anything is changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::Dtype;

use crate::error::{Error, Mismatch, Misshapen, Result};
use crate::names::{self, Naming};
use crate::parameters::Kind;
use crate::weights::{self, METADATA_KEY, Value, Weights};

type Named = [(String, Kind, Var)];

/// A batch norm's counter, which files of old versions of PyTorch and of other programs lack.
const COUNTER: &str = "num_batches_tracked";

/// Says yes or no to a value by its name.
type Chosen<'a> = &'a dyn Fn(&str) -> bool;

/// Sets every chosen variable from a state dict, or none: what can fail comes before the first change.
fn assign(from: &str, named: &Named, chosen: Chosen, found: &BTreeMap<String, Value>) -> Result<()> {
    let expected: Vec<&str> = named.iter().map(|(name, ..)| name.as_str()).collect();
    let naming = Naming::fitting(&expected, found);
    let mut mismatch = Mismatch::default();
    let (mut given, mut used) = (Vec::new(), HashSet::new());
    for (name, _, var) in named {
        let theirs = naming.theirs(name);
        match found.get(&theirs) {
            _ if !chosen(name) => {}
            Some(value) if fits(name, value, var) => given.push((var, Some(value))),
            Some(value) => {
                let show = |dtype: Dtype, shape: &[usize]| format!("{dtype:?} {shape:?}");
                let (expected, found) =
                    (show(var.dtype().into(), var.dims()), show(value.dtype(), value.shape()));
                mismatch.misshapen.push(Misshapen { name: name.clone(), expected, found });
            }
            None if is_counter(name, var) => given.push((var, None)),
            None => mismatch.missing.push(name.clone()),
        }
        used.insert(theirs);
    }
    mismatch.unexpected.extend(found.keys().filter(|name| !used.contains(*name)).cloned());
    if mismatch.is_empty() {
        return set(given);
    }
    if expected.contains(&names::WIDE_RESNET[0])
        && let Some((repository, difference)) = names::other_network(found)
    {
        return Err(Error::OtherNetwork { from: from.to_string(), repository, difference });
    }
    mismatch.prefix = names::common_prefix(found).to_string();
    Err(Error::StateDict { from: from.to_string(), mismatch: Box::new(mismatch) })
}

/// Whether a value can be converted to a variable's element type and shape: between float types; a counter from any
/// integer type, as a scalar or as a single element.
fn fits(name: &str, value: &Value, var: &Var) -> bool {
    if is_counter(name, var) {
        let whole = matches!(value.dtype(), Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::U32 | Dtype::U8);
        return whole && matches!(value.shape(), [] | [1]);
    }
    let float = |dtype| matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
    let dtype = var.dtype().into();
    value.shape() == var.dims() && (value.dtype() == dtype || float(value.dtype()) && float(dtype))
}

fn is_counter(name: &str, var: &Var) -> bool {
    name.rsplit('.').next() == Some(COUNTER) && var.dtype() == DType::I64 && var.dims().is_empty()
}

fn set(given: Vec<(&Var, Option<&Value>)>) -> Result<()> {
    let values = given.into_iter().map(|(var, value)| {
        let value = match value {
            Some(value) => {
                value.load()?.to_dtype(var.dtype())?.reshape(var.dims())?.to_device(var.device())?
            }
            None => Tensor::zeros(var.dims(), var.dtype(), var.device())?,
        };
        Ok((var, value))
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    for (var, value) in values {
        var.set(&value)?;
    }
    Ok(())
}

/// Sets every variable from tensors in memory.
pub(crate) fn assign_tensors(named: &Named, state: &HashMap<String, Tensor>) -> Result<()> {
    let found = state.iter().map(|(name, tensor)| (name.clone(), Value::Tensor(tensor))).collect();
    assign("the state dict", named, &|_| true, &found)
}

/// Sets every chosen variable from a file.
pub(crate) fn load(path: &Path, named: &Named, chosen: Chosen) -> Result<()> {
    let bytes = weights::read(path)?;
    assign(&path.display().to_string(), named, chosen, &Weights::parse(path, &bytes)?.values)
}

/// Writes a state dict to a safetensors file as [`Parameters::save`](crate::Parameters::save) does, with a text of the
/// caller's, such as what the values were trained on, in its metadata under the key `wrn_sam`.
///
/// ```
/// use candle_core::{DType, Device};
/// use wrn_sam_models::{BatchNorm, Parameters, read_metadata, save_state_dict};
///
/// let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
/// BatchNorm::new(3, parameters.var_builder())?;
/// # let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("model.safetensors");
/// save_state_dict(&path, &parameters.state()?, Some("trained on flowers"))?;
/// assert_eq!(read_metadata(&path)?.as_deref(), Some("trained on flowers"));
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] where the folder is missing, full or not writable; an existing file stays.
pub fn save_state_dict(
    path: impl AsRef<Path>,
    state: &[(String, Tensor)],
    metadata: Option<&str>,
) -> Result<()> {
    let path = path.as_ref();
    let tensors = state.iter().map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let metadata = metadata.map(|text| HashMap::from([(METADATA_KEY.to_string(), text.to_string())]));
    let bytes = safetensors::serialize(tensors, metadata)
        .map_err(|source| Error::SafeTensors { path: path.to_path_buf(), source })?;
    Ok(wrn_sam_files::write(path, |file| file.write_all(&bytes))?)
}

/// The text that [`save_state_dict`] wrote with the values. None where a file has none, as PyTorch's never have.
///
/// # Errors
/// As [`Parameters::load`](crate::Parameters::load) where the file cannot be read.
pub fn read_metadata(path: impl AsRef<Path>) -> Result<Option<String>> {
    let bytes = weights::read(path.as_ref())?;
    Ok(Weights::parse(path.as_ref(), &bytes)?.metadata)
}

/// The shapes in a file, found by a Wide ResNet's names.
pub(crate) struct WideResNetShapes {
    naming: Naming,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl WideResNetShapes {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = weights::read(path)?;
        let values = Weights::parse(path, &bytes)?.values;
        if let Some((repository, difference)) = names::other_network(&values) {
            return Err(Error::OtherNetwork { from: path.display().to_string(), repository, difference });
        }
        let naming = Naming::fitting(&names::WIDE_RESNET, &values);
        let shapes = values.into_iter().map(|(name, value)| (name, value.shape().to_vec())).collect();
        Ok(Self { naming, shapes })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(&self.naming.theirs(name)).map(Vec::as_slice)
    }
}

/// Refuses values that are not finite and variances below 0.
pub(crate) fn check_values(named: &Named) -> Result<()> {
    for (name, kind, var) in named.iter().filter(|(.., var)| var.dtype().is_float()) {
        let values = var.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let least = if *kind == Kind::Buffer && name.ends_with("running_var") { 0.0 } else { f64::MIN };
        let bad = |value: &&f64| !(value.is_finite() && **value >= least);
        if let Some(&value) = values.iter().find(bad) {
            let count = values.iter().filter(bad).count();
            return Err(Error::BadValues { name: name.clone(), value, count, of: values.len() });
        }
    }
    Ok(())
}
