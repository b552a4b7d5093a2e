//! What people read: lines on stdout, the log and refusals on stderr. Whoever reads stdout may leave (`| head`):
//! that is an end, not a failure.

use std::{
    fmt::Debug,
    io::{self, Write},
    process::ExitCode,
};

use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        FormatFields,
        format::{self, Writer},
    },
};

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
        .fmt_fields(fields())
        .init();
}

/// Writes what a log line tells as it is usually written, but on one line whatever clients called themselves: a
/// client id may have line breaks and a terminal's commands in it, and would forge lines and hide others.
fn fields() -> impl for<'w> FormatFields<'w> + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let value = on_one_line(&format!("{value:?}"));
        match field.name() {
            "message" => writer.write_str(&value),
            name if writer.has_ansi_escapes() => {
                write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}")
            }
            name => write!(writer, "{name}={value}"),
        }
    };
    format::debug_fn(field).delimited(" ")
}

/// Writes what breaks lines, commands a terminal or turns the direction of writing as escapes; the rest stays.
fn on_one_line(text: &str) -> String {
    let is_command = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Tells what was used or configured wrongly; returns the exit code for it.
pub(crate) fn misused(what: &str) -> ExitCode {
    eprintln!("postrider: {what}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(tell: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(fields())
            .finish();
        tracing::subscriber::with_default(subscriber, tell);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_log_line_looks_as_ever() {
        let told =
            logged(|| tracing::warn!(n = 7, user = "ann", client = %"c 1", path = ?"a\tb", "not let in"));
        assert_eq!(told, " WARN not let in n=7 user=\"ann\" client=c 1 path=\"a\\tb\"\n");
    }

    #[test]
    fn names_that_clients_chose_forge_no_lines_and_command_no_terminal() {
        let name = "a\nERROR all is lost\r\x1b[2Jb\u{202e}c\u{2028}d\u{9b}31m\u{7f}é中\u{1f600}";
        let told = logged(|| tracing::info!(client = %name, "client {name} not let in"));
        let shown = r"a\nERROR all is lost\r\u{1b}[2Jb\u{202e}c\u{2028}d\u{9b}31m\u{7f}é中😀";
        assert_eq!(told, format!(" INFO client {shown} not let in client={shown}\n"));
    }
}
