//! The verdict of a run as text, JUnit XML, JSON and HTML.
//!
//! Every rule is a test of its own; a run that failed says the one command that repeats it.

mod html;
mod junit;

use serde_json::{Value, json};

use crate::ledger::Wrong;
use crate::world::Outcome;

pub use html::html;
pub use junit::junit;

/// What a report is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The scenario's name.
    pub name: &'a str,
    /// What it is about.
    pub about: &'a str,
    /// The command that repeats the run.
    pub repeat: &'a str,
    /// Seconds that it really took.
    pub took_s: f64,
}

/// The numbers of a run in words, a line each.
pub fn lines(subject: &Subject<'_>, outcome: &Outcome) -> Vec<String> {
    let (counts, latency, stats) = (outcome.counts, &outcome.latency, &outcome.stats);
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let mut lines = vec![
        format!(
            "{}: {} devices, {} {} seconds, seed {}, {:.1} s",
            subject.name,
            outcome.devices,
            outcome.seconds,
            if outcome.generator.is_some() { "real" } else { "simulated" },
            outcome.seed,
            subject.took_s
        ),
        format!(
            "records    {} made, {} accepted, {} delivered, {} expired, {} dropped, {} refused",
            counts.made, counts.accepted, counts.delivered, counts.expired, counts.dropped, counts.refused
        ),
        format!(
            "latency    p50 {:.3} s, p99 {:.3} s, longest {:.3} s, from the moment a record was meant for",
            seconds(latency.percentile_ms(50.0)),
            seconds(latency.percentile_ms(99.0)),
            seconds(latency.longest_ms())
        ),
        format!(
            "links      {} connections, {} dropped, {} attempts, {} in the busiest second",
            stats.connects, stats.link_drops, stats.dials, stats.dials_peak
        ),
        format!(
            "trouble    {} power cuts of devices, {} of the broker",
            stats.power_cuts, stats.broker_power_cuts
        ),
    ];
    if !outcome.commands.is_empty() {
        let ends: Vec<String> =
            outcome.commands.iter().map(|(word, count)| format!("{count} {word}")).collect();
        lines.push(format!("commands   {}, {} locks opened", ends.join(", "), stats.unlocks));
    }
    if let Some(generator) = outcome.generator {
        lines.push(format!(
            "generator  records made {:.3} s late (p99), {:.3} s at most, {:.3} s allowed",
            seconds(generator.p99_ms),
            seconds(generator.longest_ms),
            seconds(generator.allowed_ms)
        ));
    }
    lines.push(format!("ledger     {:016x}", outcome.hash));
    for finding in &outcome.findings {
        lines.push(format!("wrong      {}: {finding}", finding.wrong.rule()));
    }
    for (wrong, count) in &outcome.broken {
        lines.push(format!("BROKEN     {} ({count} times)", wrong.rule()));
    }
    if outcome.has_passed() {
        lines.push("passed".to_owned());
    } else {
        lines.push(format!("failed; to repeat: {}", subject.repeat));
    }
    lines
}

/// The run as a JSON object.
pub fn json(subject: &Subject<'_>, outcome: &Outcome) -> Value {
    let (counts, latency, stats) = (outcome.counts, &outcome.latency, &outcome.stats);
    let rule = |wrong: &Wrong| {
        let findings = outcome.findings.iter().filter(|finding| finding.wrong == *wrong);
        json!({
            "rule": wrong.rule(),
            "broken": outcome.broken.get(wrong).copied().unwrap_or(0),
            "findings": findings.map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    json!({
        "scenario": subject.name,
        "passed": outcome.has_passed(),
        "seed": outcome.seed,
        "repeat": subject.repeat,
        "ledger_hash": format!("{:016x}", outcome.hash),
        "devices": outcome.devices,
        "simulated_s": outcome.seconds,
        "took_s": subject.took_s,
        "records": {
            "made": counts.made, "accepted": counts.accepted, "delivered": counts.delivered,
            "expired": counts.expired, "dropped": counts.dropped, "refused": counts.refused,
        },
        "latency_ms": {
            "p50": latency.percentile_ms(50.0), "p99": latency.percentile_ms(99.0),
            "p999": latency.percentile_ms(99.9), "longest": latency.longest_ms(),
        },
        "links": {
            "connects": stats.connects, "drops": stats.link_drops, "attempts": stats.dials,
            "attempts_in_busiest_second": stats.dials_peak,
        },
        "power_cuts": { "devices": stats.power_cuts, "broker": stats.broker_power_cuts },
        "commands": outcome.commands,
        "unlocks": stats.unlocks,
        "generator_late_ms": outcome.generator.map(|generator| json!({
            "p99": generator.p99_ms, "longest": generator.longest_ms, "allowed": generator.allowed_ms,
        })),
        "memory": { "bytes_per_device": outcome.bytes_per_device, "broker_bytes": outcome.broker_bytes },
        "rules": Wrong::ALL.iter().map(rule).collect::<Vec<_>>(),
    })
}

/// Writes text so that it can stand in XML and HTML, also between quotes; control characters, which XML has not, become '?'.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
