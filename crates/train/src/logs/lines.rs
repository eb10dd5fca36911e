//! A file of JSON objects, one a line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::unwritten;
use crate::error::Result;

#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file to append to it. A last line that is not whole is removed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        Ok(Self { path: path.into(), file: open().map_err(unwritten(path))? })
    }

    /// Writes an object, with the time in seconds since 1970 added under the key `time`.
    pub(super) fn write(&mut self, mut object: Value) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        object["time"] = json!(now.as_millis() as f64 / 1e3);
        let line = format!("{object}\n");
        self.file.write_all(line.as_bytes()).map_err(unwritten(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_half_a_line_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        Lines::open(&path).unwrap().write(json!({ "event": "one" })).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"event\":\"hal";
        std::fs::write(&path, &text).unwrap();
        Lines::open(&path).unwrap().write(json!({ "event": "two", "x": f64::NAN })).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["event"], &lines[1]["event"]), (&json!("one"), &json!("two")));
        assert!(lines[1]["x"].is_null() && lines[1]["time"].as_f64().unwrap() > 1.7e9);
    }
}
