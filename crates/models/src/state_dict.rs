//! State dicts in safetensors files: what is written, and what is checked before anything is changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor, Var};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Mismatch, Misshapen, Result};
use crate::parameters::Kind;

type Named = [(String, Kind, Var)];
type Description = (Dtype, Vec<usize>);

/// Dtype and shape of every tensor.
pub(crate) fn described(state: &HashMap<String, Tensor>) -> BTreeMap<&str, Description> {
    state.iter().map(|(name, tensor)| (name.as_str(), describe(tensor))).collect()
}

fn describe(tensor: &Tensor) -> Description {
    (tensor.dtype().into(), tensor.dims().to_vec())
}

/// Compares what a state dict holds with what the model has, and lists every difference.
pub(crate) fn check(from: &str, named: &Named, found: &BTreeMap<&str, Description>) -> Result<()> {
    let mut mismatch = Mismatch::default();
    for (name, _, var) in named {
        let expected = describe(var);
        match found.get(name.as_str()) {
            None => mismatch.missing.push(name.clone()),
            Some(found) if *found == expected => {}
            Some(found) => {
                let show = |(dtype, shape): &Description| format!("{dtype:?} {shape:?}");
                let (expected, found) = (show(&expected), show(found));
                mismatch.misshapen.push(Misshapen { name: name.clone(), expected, found });
            }
        }
    }
    let expected: HashSet<&str> = named.iter().map(|(name, ..)| name.as_str()).collect();
    mismatch
        .unexpected
        .extend(found.keys().filter(|name| !expected.contains(*name)).map(|name| name.to_string()));
    if mismatch.is_empty() { Ok(()) } else { Err(Error::StateDict { from: from.to_string(), mismatch }) }
}

/// Sets every variable from a state dict that [`check`] has passed. What can still fail, the copies to the device,
/// comes before the first change.
pub(crate) fn set(named: &Named, state: &HashMap<String, Tensor>) -> Result<()> {
    // Copied, as a state dict may hold the very variables it is loaded into, which candle refuses.
    let values = named.iter().map(|(name, _, var)| Ok((var, state[name].to_device(var.device())?.copy()?)));
    let values = values.collect::<Result<Vec<_>>>()?;
    for (var, value) in values {
        var.set(&value)?;
    }
    Ok(())
}

pub(crate) fn load(path: &Path, named: &Named) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let file = deserialize(path, &bytes)?;
    let found = file.iter().map(|(name, view)| (name, (view.dtype(), view.shape().to_vec()))).collect();
    check(&path.display().to_string(), named, &found)?;
    let state = file.iter().map(|(name, view)| Ok((name.to_string(), view.load(&Device::Cpu)?)));
    set(named, &state.collect::<Result<_>>()?)
}

pub(crate) fn save(path: &Path, named: &Named) -> Result<()> {
    let tensors = named.iter().map(|(name, _, var)| Ok((name, var.to_device(&Device::Cpu)?)));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|source| Error::SafeTensors { path: path.to_path_buf(), source })?;

    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // As File::create would have it; a temporary file is else readable by its owner alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(&folder).map_err(Error::io("write to", &folder))?;
    file.write_all(&bytes).map_err(Error::io("write", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    file.persist(path).map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

/// The shape of every tensor in a file.
pub(crate) fn read_shapes(path: &Path) -> Result<HashMap<String, Vec<usize>>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let file = deserialize(path, &bytes)?;
    Ok(file.iter().map(|(name, view)| (name.to_string(), view.shape().to_vec())).collect())
}

fn deserialize<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|source| Error::SafeTensors { path: path.to_path_buf(), source })
}
