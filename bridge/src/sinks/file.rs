//! A file with one JSON object a line, synced before a message counts as delivered; for archives and for programs that read along.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::task::spawn_blocking;

use crate::{
    outbox::{Attempt, Cause, Verdict},
    state::Entry,
};

/// Largest file unless the sink says otherwise, bytes.
const BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// Most files that are kept besides the current one.
const KEEP_MAX: u32 = 1_000;

/// What a file is told in the configuration (`type = "file"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSettings {
    /// Where it is.
    pub path: PathBuf,
    /// When it would be larger it becomes `PATH.1`, that one `PATH.2` and so on.
    #[serde(default = "bytes_max")]
    pub bytes_max: u64,
    /// How many of those are kept.
    #[serde(default = "keep")]
    pub keep: u32,
}

fn bytes_max() -> u64 {
    BYTES_MAX
}

fn keep() -> u32 {
    4
}

impl FileSettings {
    /// Checks the numbers.
    ///
    /// # Errors
    /// One is out of its range.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.bytes_max < 4_096 {
            return Err(format!("bytes_max = {}: it must be at least 4096", self.bytes_max));
        }
        if self.keep > KEEP_MAX {
            return Err(format!("keep = {}: it must be 0 to {KEEP_MAX}", self.keep));
        }
        Ok(())
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct FileSink {
    settings: FileSettings,
    /// Away while a write runs, and after one that failed.
    file: Option<File>,
}

impl FileSink {
    /// Makes a sink; the file is opened with the first message, so that a directory that comes later costs none.
    pub(crate) fn new(settings: &FileSettings) -> FileSink {
        FileSink { settings: settings.clone(), file: None }
    }
}

impl Attempt for FileSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let (settings, file) = (self.settings.clone(), self.file.take());
        let line = format!("{}\n", entry.payload.replace('\n', " "));
        let written = spawn_blocking(move || write(&settings, file, line.as_bytes())).await;
        let why = match written {
            Ok(Ok(file)) => {
                self.file = Some(file);
                return Verdict::Delivered;
            }
            Ok(Err(error)) => format!("{}: {error}", self.settings.path.display()),
            Err(error) => format!("the write did not return: {error}"),
        };
        Verdict::Again { cause: Cause::Transient, why, after_ms: None }
    }
}

fn write(settings: &FileSettings, file: Option<File>, line: &[u8]) -> io::Result<File> {
    let mut file = match file {
        Some(file) => file,
        None => open(&settings.path)?,
    };
    let bytes = file.metadata()?.len();
    if bytes > 0 && bytes + line.len() as u64 > settings.bytes_max {
        drop(file);
        rotate(&settings.path, settings.keep)?;
        file = open(&settings.path)?;
    }
    file.write_all(line)?;
    file.sync_data()?;
    Ok(file)
}

/// Opens the file at its end. A line that a crash left without its end was not delivered, and is cut.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let whole = whole_bytes(&mut file)?;
    if whole < file.metadata()?.len() {
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok(file)
}

/// How much of a file is whole lines.
fn whole_bytes(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0_u8; 4_096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::entry;

    #[tokio::test]
    async fn each_message_is_a_line_and_a_line_that_a_crash_cut_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.jsonl");
        std::fs::write(&path, "{\"n\":1}\n{\"n\":2").unwrap();
        let settings = FileSettings { path: path.clone(), bytes_max: 4_096, keep: 2 };
        let mut sink = FileSink::new(&settings);
        for payload in ["{\"n\":2}", "{\"n\":3}"] {
            assert_eq!(sink.attempt(&entry(payload)).await, Verdict::Delivered);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    }

    #[tokio::test]
    async fn a_full_file_makes_room_and_as_many_are_kept_as_the_sink_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.jsonl");
        let settings = FileSettings { path, bytes_max: 4_096, keep: 2 };
        let mut sink = FileSink::new(&settings);
        let payload = format!("\"{}\"", "x".repeat(3_000));
        for _ in 0..5 {
            assert_eq!(sink.attempt(&entry(&payload)).await, Verdict::Delivered);
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["alerts.jsonl", "alerts.jsonl.1", "alerts.jsonl.2"]);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_costs_no_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/alerts.jsonl");
        let mut sink = FileSink::new(&FileSettings { path: path.clone(), bytes_max: 4_096, keep: 0 });
        assert!(matches!(sink.attempt(&entry("{}")).await, Verdict::Again { .. }));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        assert_eq!(sink.attempt(&entry("{}")).await, Verdict::Delivered);
    }
}
