//! Lines for people on stdout. Whoever reads may leave (`| head`): that is an end, not a failure.

use std::io::{self, Write};

/// Writes one line.
///
/// # Errors
/// The reader is gone (`BrokenPipe`), or the system refuses.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Says whether an error only means that the reader is gone.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
