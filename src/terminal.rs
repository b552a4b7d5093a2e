//! What people read: lines on stdout, the log and refusals on stderr. Whoever reads stdout may leave (`| head`):
//! that is an end, not a failure.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use tracing_subscriber::EnvFilter;

/// Writes one line.
///
/// # Errors
/// The reader is gone (`BrokenPipe`), or the system refuses.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Aligns the cells of rows below each other.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Says whether an error only means that the reader is gone.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Sends the log to stderr, in colours if a person looks at it.
pub(crate) fn start_log(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .init();
}

/// Tells what was used or configured wrongly; returns the exit code for it.
pub(crate) fn misused(what: &str) -> ExitCode {
    eprintln!("postrider: {what}");
    ExitCode::from(2)
}
