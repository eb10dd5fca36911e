//! PyTorch's files since version 1.6: a zip archive with the pickle `data.pkl` of whatever was saved, and the elements of each
//! storage in a member `data/KEY` (<https://docs.pytorch.org/docs/stable/notes/serialization.html>).

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::rc::Rc;

use safetensors::Dtype;
use zip::ZipArchive;
use zip::result::ZipError;

use super::pickle::{Id, Item, Pickle};
use super::value::{Strided, Value};

type Result<T> = std::result::Result<T, String>;

/// The names that training programs give the state dict in a checkpoint, the most common first.
const CHECKPOINT_KEYS: [&str; 8] =
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params"];

/// How deep a state dict can be nested in a checkpoint, and a tensor in the calls that wrap it.
const DEEPEST: usize = 4;

/// The state dict in a file: of the file's whole object, or of the entry that holds it in a checkpoint.
///
/// # Errors
/// What the file holds instead, or how it is damaged.
pub(super) fn values(bytes: &[u8]) -> Result<BTreeMap<String, Value<'static>>> {
    let mut archive = Archive::open(bytes)?;
    let pickle = archive.member("data.pkl")?;
    let pickle = Pickle::parse(&pickle)?;
    let mut values = BTreeMap::new();
    for (name, tensor) in state_dict(&pickle)? {
        let value = archive.tensor(&pickle, tensor).map_err(|reason| format!("{name}: {reason}"))?;
        values.insert(name.to_string(), Value::Strided(value));
    }
    Ok(values)
}

/// The members of the zip archive, below its one folder.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    folder: String,
    storages: HashMap<String, Rc<Vec<u8>>>,
    /// The bytes that members may still have. They are not compressed, so together they have no more than the file.
    budget: usize,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let cut = |error| format!("its zip archive is cut short or damaged ({error}): save or copy it again");
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(cut)?;
        let names: Vec<String> =
            (0..zip.len()).filter_map(|at| Some(zip.name_for_index(at)?.ok()?.into_owned())).collect();
        let has = |end: &str| names.iter().any(|name| name.ends_with(end));
        if has("constants.pkl") {
            return Err("it is TorchScript: in Python, save torch.jit.load(path).state_dict()".to_string());
        }
        if has(".npy") {
            return Err("it is a NumPy archive (.npz)".to_string());
        }
        let folder = names.iter().find_map(|name| {
            let folder = name.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_string())
        });
        let folder = folder
            .ok_or("it is a zip archive without data.pkl, which torch.save did not write: unpack it first")?;
        let mut archive = Self { zip, folder, storages: HashMap::new(), budget: bytes.len() };
        match archive.member("byteorder") {
            Ok(order) if order != b"little" => {
                Err("its numbers are big-endian, which is not supported".to_string())
            }
            _ => Ok(archive),
        }
    }

    /// A member's content, compared with its checksum.
    fn member(&mut self, name: &str) -> Result<Vec<u8>> {
        let name = format!("{}{name}", self.folder);
        let mut member = self.zip.by_name(&name).map_err(|error| match error {
            ZipError::FileNotFound => format!("it lacks {name}"),
            error => format!("{name} cannot be read: {error}"),
        })?;
        let mut content = Vec::new();
        member.read_to_end(&mut content).map_err(|error| format!("{name} is damaged: {error}"))?;
        let left = self.budget.checked_sub(content.len());
        self.budget = left.ok_or("members of its zip archive overlap")?;
        Ok(content)
    }

    /// A storage, read once however many tensors share it.
    fn storage(&mut self, key: &str) -> Result<Rc<Vec<u8>>> {
        if let Some(storage) = self.storages.get(key) {
            return Ok(storage.clone());
        }
        let storage = Rc::new(self.member(&format!("data/{key}"))?);
        self.storages.insert(key.to_string(), storage.clone());
        Ok(storage)
    }

    fn tensor(&mut self, pickle: &Pickle, tensor: Id) -> Result<Strided> {
        let (function, arguments) = rebuilt(pickle, tensor).ok_or("it is not a tensor that can be read")?;
        if function != "_rebuild_tensor_v2" {
            return Err(format!("it is made by {function}, which is not supported"));
        }
        // Storage, offset, shape, strides, and three more that do not matter.
        let &[storage, offset, shape, strides, ..] = arguments else { return Err(malformed()) };
        let Item::Persistent(id) = *pickle.get(storage) else { return Err(malformed()) };
        let Item::Tuple(parts) = pickle.get(id) else { return Err(malformed()) };
        // "storage", class, key, device, number of elements.
        let &[_, class, key, ..] = &parts[..] else { return Err(malformed()) };
        let (Item::Global(_, class), Item::Text(key)) = (pickle.get(class), pickle.get(key)) else {
            return Err(malformed());
        };
        let dtype =
            dtype(class).ok_or_else(|| format!("its elements are a {class}, which is not supported"))?;
        let offset = size(pickle, offset)?;
        Strided::new(dtype, sizes(pickle, shape)?, sizes(pickle, strides)?, offset, self.storage(key)?)
    }
}

fn malformed() -> String {
    "its description is malformed".to_string()
}

fn dtype(storage: &str) -> Option<Dtype> {
    Some(match storage {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

fn size(pickle: &Pickle, id: Id) -> Result<usize> {
    match pickle.get(id) {
        Item::Int(value) => usize::try_from(*value).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

fn sizes(pickle: &Pickle, id: Id) -> Result<Vec<usize>> {
    match pickle.get(id) {
        Item::Tuple(items) => items.iter().map(|&id| size(pickle, id)).collect(),
        // torch.Size, a call with a tuple of the sizes.
        &Item::Call(_, arguments) => match pickle.get(arguments) {
            Item::Tuple(items) if items.len() == 1 => match pickle.get(items[0]) {
                Item::Tuple(items) => items.iter().map(|&id| size(pickle, id)).collect(),
                _ => Err(malformed()),
            },
            _ => Err(malformed()),
        },
        _ => Err(malformed()),
    }
}

/// The function of PyTorch's that makes this tensor, and its arguments; calls around it, which make a parameter or a
/// subclass of the tensor, are passed through. None where the value is no tensor.
fn rebuilt<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<(&'p str, &'p [Id])> {
    let call = |id| match *pickle.get(id) {
        Item::Call(callable, arguments) => Some((callable, arguments)),
        _ => None,
    };
    let (mut callable, mut arguments) = call(id)?;
    for _ in 0..DEEPEST {
        let (Item::Global(module, function), Item::Tuple(given)) =
            (pickle.get(callable), pickle.get(arguments))
        else {
            return None;
        };
        match (*module, *function) {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                (callable, arguments) = call(*given.first()?)?;
            }
            // Function, type, the function's arguments, state.
            ("torch._tensor", "_rebuild_from_type_v2") => {
                (callable, arguments) = (*given.first()?, *given.get(2)?);
            }
            ("torch._utils", function) if function.starts_with("_rebuild") => return Some((function, given)),
            _ => return None,
        }
    }
    None
}

/// Name and tensor of each entry of the state dict.
fn state_dict<'p>(pickle: &'p Pickle<'_>) -> Result<Vec<(&'p str, Id)>> {
    tensors_in(pickle, pickle.root(), DEEPEST).ok_or_else(|| match pickle.get(pickle.root()) {
        Item::Dict(_) => {
            let entries = named(pickle, pickle.root());
            let likely = entries.iter().filter(|(name, _)| CHECKPOINT_KEYS.contains(name));
            let object = likely.copied().find_map(|(name, value)| Some((name, class(pickle, value)?)));
            match object {
                Some((name, class)) => whole_object(&class, &format!(" in its entry {name:?}")),
                None => {
                    let names: Vec<&str> = entries.iter().map(|(name, _)| *name).take(8).collect();
                    format!("none of its entries ({}) is a state dict", names.join(", "))
                }
            }
        }
        _ => match class(pickle, pickle.root()) {
            Some(class) => whole_object(&class, ""),
            None => "it holds no dict of tensors".to_string(),
        },
    })
}

fn whole_object(class: &str, place: &str) -> String {
    format!(
        "it holds a whole object of class {class}{place}: in Python, save the object's state_dict() instead"
    )
}

/// The tensors of this dict, or of the one dict in it that holds some.
fn tensors_in<'p>(pickle: &'p Pickle<'_>, dict: Id, depth: usize) -> Option<Vec<(&'p str, Id)>> {
    let entries = named(pickle, dict);
    if depth > 0 {
        let likely =
            CHECKPOINT_KEYS.iter().flat_map(|key| entries.iter().filter(move |(name, _)| name == key));
        if let Some(tensors) = likely.copied().find_map(|(_, value)| tensors_in(pickle, value, depth - 1)) {
            return Some(tensors);
        }
    }
    let tensors: Vec<_> =
        entries.iter().copied().filter(|&(_, value)| rebuilt(pickle, value).is_some()).collect();
    if !tensors.is_empty() {
        return Some(tensors);
    }
    // Under an unusual name, where there is no choice.
    let mut inner =
        entries.iter().filter_map(|&(_, value)| (depth == DEEPEST).then(|| tensors_in(pickle, value, 0))?);
    match (inner.next(), inner.next()) {
        (Some(tensors), None) => Some(tensors),
        _ => None,
    }
}

/// A dict's entries whose keys are texts.
fn named<'p>(pickle: &'p Pickle<'_>, dict: Id) -> Vec<(&'p str, Id)> {
    let Item::Dict(entries) = pickle.get(dict) else { return vec![] };
    let named = entries.iter().filter_map(|&(key, value)| match pickle.get(key) {
        Item::Text(name) => Some((*name, value)),
        _ => None,
    });
    named.collect()
}

/// The class of an object that is pickled whole, such as a network.
fn class(pickle: &Pickle, id: Id) -> Option<String> {
    let Item::Call(callable, _) = *pickle.get(id) else { return None };
    match pickle.get(callable) {
        Item::Global(module, name) => Some(format!("{module}.{name}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const PLAIN: &[u8] = include_bytes!("../../tests/pth/plain.pth");

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, content) in members {
            writer.start_file(*name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn reason(members: &[(&str, &[u8])]) -> String {
        values(&archive(members)).err().expect("must be refused")
    }

    #[test]
    fn other_archives_are_called_what_they_are() {
        assert!(reason(&[("weight.npy", b"")]).contains("NumPy"));
        assert!(reason(&[("net/data.pkl", b""), ("net/constants.pkl", b"")]).contains("TorchScript"));
        assert!(reason(&[("readme.txt", b"")]).contains("without data.pkl"));
        assert!(reason(&[("net/data.pkl", b"}."), ("net/byteorder", b"big")]).contains("big-endian"));
        assert!(reason(&[("net/data.pkl", b"}.")]).contains("none of its entries"));
        assert!(reason(&[("net/data.pkl", b"K\x01.")]).contains("no dict of tensors"));
        assert!(
            reason(&[("net/data.pkl", b"cos\nsystem\nX\x02\0\0\0ls\x85R.")])
                .contains("object of class os.system")
        );
        assert!(reason(&[("net/data.pkl", b"}X\x05\0\0\0epochK\x01s.")]).contains("(epoch)"));
        let network = b"}X\x03\0\0\0netcnets\nWide\n)\x81s.";
        assert!(reason(&[("net/data.pkl", network)]).contains("class nets.Wide in its entry \"net\""));
    }

    /// A state dict with one tensor of 6 elements, whose storage is an f32 one named `0`.
    fn pickle(class: &[u8], offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
        let tuple = |sizes: &[u8]| {
            [&b"("[..], &sizes.iter().flat_map(|&size| [b'K', size]).collect::<Vec<_>>(), b"t"].concat()
        };
        [
            b"}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n",
            class,
            b"\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK",
            &[offset],
            &tuple(shape),
            &tuple(strides),
            b"\x89)tRs.",
        ]
        .concat()
    }

    #[test]
    fn a_tensor_is_where_its_strides_say_and_nowhere_else() {
        let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let read = |pickle: &[u8]| {
            let values = values(&archive(&[("a/data.pkl", pickle), ("a/data/0", &storage)]))?;
            Ok::<_, String>(values["a"].load().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let float = b"FloatStorage";
        assert_eq!(read(&pickle(float, 0, &[2, 3], &[3, 1])).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read(&pickle(float, 0, &[3, 2], &[1, 3])).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(read(&pickle(float, 5, &[1], &[7])).unwrap(), [5.0]);
        assert_eq!(read(&pickle(float, 3, &[], &[])).unwrap(), [3.0]);
        assert!(read(&pickle(float, 200, &[0, 9], &[9, 1])).unwrap().is_empty());
        for (offset, shape, strides) in [
            (1, &[2, 3][..], &[3, 1][..]),
            (0, &[7], &[1]),
            (0, &[200, 200], &[0, 0]),
            (0, &[2], &[]),
            (6, &[], &[]),
        ] {
            assert!(read(&pickle(float, offset, shape, strides)).unwrap_err().starts_with("a: its shape"));
        }
        assert!(
            read(&pickle(b"ComplexFloatStorage", 0, &[1], &[1])).unwrap_err().contains("ComplexFloatStorage")
        );
        let without = archive(&[("a/data.pkl", &pickle(float, 0, &[6], &[1]))]);
        assert_eq!(values(&without).err().unwrap(), "a: it lacks a/data/0");
    }

    /// Without a checksum to guard it: whatever a pickle says, it is read or refused.
    #[test]
    fn damaged_pickles_do_no_harm() {
        let mut plain = Archive::open(PLAIN).unwrap();
        let whole = plain.member("data.pkl").unwrap();
        let storages: Vec<_> = (0..12)
            .map(|key| (format!("a/data/{key}"), plain.member(&format!("data/{key}")).unwrap()))
            .collect();
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            let mut members = vec![("a/data.pkl", &damaged[..])];
            members.extend(storages.iter().map(|(name, content)| (name.as_str(), &content[..])));
            match values(&archive(&members)) {
                Ok(values) => values.values().for_each(|value| drop(value.load())),
                Err(reason) => {
                    assert!(!reason.contains('\n'), "{reason}");
                    refused += 1;
                }
            }
        }
        assert!(refused > whole.len() / 10, "{refused}");
    }
}
