//! `postrider sim run FILE`: a scenario on virtual time, to its verdict.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use firmware_sim::report::{self, Subject};
use firmware_sim::scenario::Scenario;
use firmware_sim::world::{self, Outcome, Progress, Run};
use indicatif::{ProgressBar, ProgressStyle};

use super::shard_broker::ShardBroker;
use super::usage::Usage;
use crate::terminal::{misused, say};

/// Run a scenario on virtual time against the real engine, and tell whether every record is accounted for
///
/// The same seed gives the same run, the same verdict and the same hash of the ledger. Exit code 1: something is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The scenario, see configs/scenarios and docs/simulator.md
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where all chance comes from; else the scenario's own
    #[arg(long)]
    seed: Option<u64>,
    /// How many devices instead of the scenario's
    #[arg(long, value_name = "N")]
    devices: Option<u32>,
    /// Print a report for machines instead of lines for people
    #[arg(long, value_name = "FORMAT")]
    report: Option<Format>,
    /// Write the report there, and the lines for people to stdout
    #[arg(long, value_name = "FILE", requires = "report")]
    output: Option<PathBuf>,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Junit,
    Json,
    Html,
}

/// Runs the scenario; the exit code is the verdict.
pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let (mut scenario, routes) = match Scenario::load(&args.file) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(misused(&error.to_string())),
    };
    if let Some(devices) = args.devices
        && let Err(error) = scenario.set_devices(devices)
    {
        return Ok(misused(&format!("--devices: {error}")));
    }
    let seed = args.seed.unwrap_or(scenario.seed);
    let begun = Instant::now();
    let mut broker = ShardBroker::new(engine::Config::default(), seed, scenario.broker.keeps_log)
        .map_err(anyhow::Error::msg)
        .context("the broker cannot be started")?;
    let bar = progress_bar(args.quiet, &scenario);
    let (before, mut resident_most_bytes) = (Usage::now(), 0);
    let outcome = world::run(Run::new(&scenario, &routes, seed), &mut broker, |progress| {
        show(&bar, progress);
        let resident_bytes = Usage::now().map_or(0, Usage::resident_bytes);
        resident_most_bytes = resident_bytes.max(resident_most_bytes);
    });
    bar.finish_and_clear();
    let repeat = repeat(args, seed);
    let outcome = outcome.with_context(|| format!("{}; to repeat: {repeat}", scenario.name))?;
    let took_s = begun.elapsed().as_secs_f64();
    let subject = Subject { name: &scenario.name, about: &scenario.about, repeat: &repeat, took_s };
    let usage = before
        .zip(Usage::now())
        .map(|(before, after)| after.line(before, resident_most_bytes, outcome.devices, outcome.counts.made));
    tell(args, &subject, &outcome, usage)?;
    Ok(if outcome.has_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(
    args: &RunArgs,
    subject: &Subject<'_>,
    outcome: &Outcome,
    usage: Option<String>,
) -> anyhow::Result<()> {
    let report = args.report.map(|format| match format {
        Format::Junit => report::junit(subject, outcome),
        Format::Json => format!("{:#}\n", report::json(subject, outcome)),
        Format::Html => report::html(subject, outcome),
    });
    if let Some(report) = &report {
        match &args.output {
            None => return Ok(say(report.trim_end())?),
            Some(path) => {
                std::fs::write(path, report).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    for line in usage.into_iter().chain(report::lines(subject, outcome)) {
        say(&line)?;
    }
    Ok(())
}

/// The one command that repeats a run.
fn repeat(args: &RunArgs, seed: u64) -> String {
    let devices = args.devices.map(|devices| format!(" --devices {devices}")).unwrap_or_default();
    format!("postrider sim run {} --seed {seed}{devices}", quoted(&args.file))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A bar on a terminal, and nothing elsewhere.
fn progress_bar(quiet: bool, scenario: &Scenario) -> ProgressBar {
    if quiet || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} s, {msg}, {eta} left");
    let bar = ProgressBar::new(scenario.end_ms() / 1_000);
    bar.set_prefix(scenario.name.clone());
    // The template is a constant; a bar without it is as good.
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.second);
    bar.set_message(format!("{} of {} records", progress.counts.delivered, progress.counts.made));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_repeats_a_run_can_be_pasted() {
        let args = |file: &str, devices| RunArgs {
            file: PathBuf::from(file),
            seed: None,
            devices,
            report: None,
            output: None,
            quiet: true,
        };
        assert_eq!(repeat(&args("a/b.toml", None), 7), "postrider sim run a/b.toml --seed 7");
        let odd = repeat(&args("it's a.toml", Some(9)), 1);
        assert_eq!(odd, "postrider sim run 'it'\\''s a.toml' --seed 1 --devices 9");
    }
}
