//! Files that people write: read whole, within a bound, with places for messages.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::secret::Secret;

/// A file is at most this long.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) text: String,
}

impl TextFile {
    /// Reads a file of UTF-8.
    ///
    /// # Errors
    /// It cannot be read, is too long or no UTF-8; the message names it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let bytes = read(path)?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{}: it is not UTF-8", path.display()))?;
        Ok(Self { path: path.to_owned(), text })
    }
}

/// Reads a secret; one line break at the end is an editor's.
///
/// # Errors
/// It cannot be read; the message names the file.
pub(crate) fn read_secret(path: &Path) -> Result<Secret, String> {
    let mut bytes = read(path)?;
    for end in [b'\n', b'\r'] {
        bytes.pop_if(|last| *last == end);
    }
    Ok(Secret::new(bytes))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("{}: cannot read it: {error}", path.display());
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("{}: it is longer than {BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}

/// Names the line of a file at which a byte stands.
pub(crate) fn place(path: &Path, text: &str, at: usize) -> impl fmt::Display {
    let line = 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
    format!("{}:{line}", path.display())
}
