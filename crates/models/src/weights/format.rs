//! What a file is, by its first bytes.

/// A kind of weights file that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A length, a JSON header and the values.
    SafeTensors,
    /// A zip archive with a pickle and one file for each storage, as `torch.save` has written since PyTorch 1.6.
    PyTorch,
}

/// First bytes of what is mistaken for weights.
const OTHERS: [(&[u8], &str); 17] = [
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run `git lfs pull` in its repository"),
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", LEGACY),
    (b"\x80", "a bare Python pickle: save the state dict with torch.save or safetensors.torch.save_file"),
    (b"\x1f\x8b", "gzip data: unpack it first"),
    (b"BZh", "bzip2 data: unpack it first"),
    (b"\xfd7zXZ\0", "xz data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras or TensorFlow), not safetensors or PyTorch's"),
    (b"GGUF", "a GGUF file, not safetensors or PyTorch's"),
    (b"\x93NUMPY", "a NumPy array, not safetensors or PyTorch's"),
    (b"\x89PNG", "a PNG image, not weights"),
    (b"\xff\xd8\xff", "a JPEG image, not weights"),
    (b"%PDF", "a PDF document, not weights"),
    (b"\x7fELF", "a program, not weights"),
    (b"PK\x05\x06", "an empty zip archive, not weights"),
];

const LEGACY: &str =
    "a PyTorch file in the format before PyTorch 1.6: load it in Python and save it again with torch.save";

impl Format {
    /// The format of a file with these bytes.
    ///
    /// # Errors
    /// What the file is instead, as "a Git LFS pointer, ...".
    pub(super) fn of(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("an empty file: save or copy it again".to_string());
        }
        if bytes.starts_with(b"PK\x03\x04") {
            return Ok(Self::PyTorch);
        }
        // Before the others, because a length can begin with any bytes.
        if is_safetensors(bytes) {
            return Ok(Self::SafeTensors);
        }
        if let Some((_, name)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
            return Err(name.to_string());
        }
        if bytes.get(257..262) == Some(b"ustar") {
            return Err("a tar archive: unpack it first".to_string());
        }
        if bytes.iter().take(4096).all(|&byte| byte == 0) {
            return Err("a file of zeros, whose content was never written: save or copy it again".to_string());
        }
        match text(bytes) {
            Some(text) => Err(describe_text(text)),
            None => Err("neither safetensors nor a PyTorch file".to_string()),
        }
    }
}

/// Whether the bytes begin as safetensors does, also if cut short: a length below a million million and a brace.
fn is_safetensors(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk() {
        Some((length, rest)) => {
            u64::from_le_bytes(*length) >> 40 == 0 && matches!(rest.first(), None | Some(b'{'))
        }
        None => true,
    }
}

/// The beginning of a file that is text from its first byte.
fn text(bytes: &[u8]) -> Option<&str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let start = &bytes[..bytes.len().min(512)];
    // The end of the piece may split a character.
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let printable = |c: char| !c.is_control() || c.is_whitespace();
    valid.chars().all(printable).then(|| valid.trim_start())
}

fn describe_text(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") || lower.starts_with("<head") {
        return "an HTML page, not weights: the download led to a web page; use the link to the file itself"
            .to_string();
    }
    if lower.starts_with("<?xml") || lower.starts_with('<') {
        return "an XML document, not weights: the server may have answered with an error".to_string();
    }
    if lower.starts_with('{') || lower.starts_with('[') {
        return "JSON text, not weights".to_string();
    }
    let line: String = text.lines().next().unwrap_or_default().chars().take(40).collect();
    format!("text that begins with {line:?}, not weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let named = |bytes: &[u8], part: &str| {
            let reason = Format::of(bytes).expect_err("must be refused");
            assert!(reason.contains(part) && !reason.contains('\n'), "{reason}");
        };
        named(b"", "an empty file");
        named(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull");
        named(b"\n <!DOCTYPE html>\n<html>", "an HTML page");
        named(b"\xef\xbb\xbf<HTML><body>", "an HTML page");
        named(b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "an XML document");
        named(b"404: Not Found", "text that begins with \"404: Not Found\"");
        named(b"{\"message\": \"Bad credentials\"}", "JSON");
        named(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "before PyTorch 1.6");
        named(b"\x80\x04\x95\x10\0\0\0\0\0\0\0}.", "a bare Python pickle");
        named(b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip");
        named(&[0; 5000], "a file of zeros");
        let mut tar = vec![b'a'; 600];
        tar[100..257].fill(0);
        tar[257..262].copy_from_slice(b"ustar");
        named(&tar, "a tar archive");
        let text: String = "é".repeat(300);
        named(text.as_bytes(), "text that begins with");

        assert_eq!(Format::of(b"PK\x03\x04"), Ok(Format::PyTorch));
        assert_eq!(Format::of(b"\x10\0\0\0\0\0\0\0{\"a\":"), Ok(Format::SafeTensors));
        // A header's length begins as a pickle, as gzip, and may be cut short.
        assert_eq!(Format::of(b"\x80\x0f\0\0\0\0\0\0{\"a\":"), Ok(Format::SafeTensors));
        assert_eq!(Format::of(b"\x1f\x8b\0\0\0\0\0\0{\"a\":"), Ok(Format::SafeTensors));
        assert_eq!(Format::of(b"\x80\x0f\0\0\0\0\0\0"), Ok(Format::SafeTensors));
        assert_eq!(Format::of(b"\x80\x0f\0"), Ok(Format::SafeTensors));
    }
}
