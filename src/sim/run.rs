//! `postrider sim run FILE`: a scenario on virtual time or in real time, to its verdict.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use firmware_sim::report::{self, Subject};
use firmware_sim::scenario::Scenario;
use firmware_sim::world::{self, Outcome, Progress, Run};
use indicatif::{ProgressBar, ProgressStyle};

use super::real::{self, Ended, RealArgs};
use super::shard_broker::ShardBroker;
use super::usage::Usage;
use crate::terminal::{misused, say};

/// Run a scenario on virtual time against the real engine, or in real time against a broker, and tell whether every record is accounted for
///
/// The same seed gives the same records, the same verdict and, on virtual time, the same run and hash of the ledger. Exit code 1: something is wrong.
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
    #[command(flatten)]
    real: RealArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Junit,
    Json,
    Html,
}

/// Runs the scenario; the exit code is the verdict.
pub(super) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
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
    let bar = progress_bar(args.quiet, &scenario);
    let (before, mut resident_most_bytes) = (Usage::now(), 0);
    let repeat = repeat(args, seed);
    let what = Run::new(&scenario, &routes, seed);
    let tell_progress = |progress| {
        show(&bar, progress);
        let resident_bytes = Usage::now().map_or(0, Usage::resident_bytes);
        resident_most_bytes = resident_bytes.max(resident_most_bytes);
    };
    let ended = if args.real.is_asked_for() {
        real::run(&args.real, what, tell_progress).await
    } else {
        in_virtual_time(what, tell_progress).map(Ended::Verdict)
    };
    bar.finish_and_clear();
    let ended = ended.with_context(|| format!("{}; to repeat: {repeat}", scenario.name))?;
    let outcome = match ended {
        Ended::Verdict(outcome) => outcome,
        Ended::Misused(why) => return Ok(misused(&why)),
        Ended::Stopped(signal) => anyhow::bail!("stopped by {signal}; to repeat: {repeat}"),
    };
    let took_s = begun.elapsed().as_secs_f64();
    let subject = Subject { name: &scenario.name, about: &scenario.about, repeat: &repeat, took_s };
    // In real time the broker is a process of its own.
    let usage = before.zip(Usage::now()).filter(|_| !args.real.is_asked_for());
    let usage = usage
        .map(|(before, after)| after.line(before, resident_most_bytes, outcome.devices, outcome.counts.made));
    tell(args, &subject, &outcome, usage)?;
    Ok(if outcome.has_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_virtual_time(run: Run<'_>, tell: impl FnMut(Progress)) -> anyhow::Result<Outcome> {
    let keeps_log = run.scenario.broker.keeps_log;
    let mut broker = ShardBroker::new(engine::Config::default(), run.seed, keeps_log)
        .map_err(anyhow::Error::msg)
        .context("the broker cannot be started")?;
    Ok(world::run(run, &mut broker, tell)?)
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
    let real = args.real.repeat(quoted);
    format!("postrider sim run {} --seed {seed}{devices}{real}", quoted(&args.file))
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn repeated(words: &[&str], seed: u64) -> String {
        let line = Line::try_parse_from(["run"].iter().chain(words)).expect("a command line");
        repeat(&line.args, seed)
    }

    #[test]
    fn the_command_that_repeats_a_run_can_be_pasted() {
        assert_eq!(repeated(&["a/b.toml"], 7), "postrider sim run a/b.toml --seed 7");
        let odd = repeated(&["it's a.toml", "--devices", "9"], 1);
        assert_eq!(odd, "postrider sim run 'it'\\''s a.toml' --seed 1 --devices 9");
        let real = repeated(&["a.toml", "--real", "--late-max", "900"], 2);
        assert_eq!(real, "postrider sim run a.toml --seed 2 --real --late-max 900");
        let words = ["a.toml", "--broker", "localhost:1883", "-u", "ann", "-P", "hunter2"];
        let with_login = repeated(&words, 3);
        assert_eq!(with_login, "postrider sim run a.toml --seed 3 --broker 'localhost:1883' --username ann");
    }
}
