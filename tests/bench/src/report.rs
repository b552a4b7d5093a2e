//! Samples to medians and ratios, and those to a Markdown table.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Error, Result, ensure};
use protocol::ProtocolVersion;

use crate::{
    Bounds,
    rows::Row,
    servers::{Programs, ServerKind},
};

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU microseconds, or bytes, of one thing counted.
    pub(crate) value: f64,
    /// What was counted.
    pub(crate) count: u64,
    pub(crate) wall_s: f64,
}

/// All measurements, by row and server; one entry a round, `None` where it failed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    samples: BTreeMap<(usize, ServerKind), Vec<Option<Sample>>>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, row: usize, kind: ServerKind, outcome: Result<Sample, Error>) {
        if let Err(error) = &outcome {
            self.failures.push(format!("{kind}: {error:#}"));
        }
        self.samples.entry((row, kind)).or_default().push(outcome.ok());
    }

    fn values(&self, row: usize, kind: ServerKind) -> Vec<Option<f64>> {
        let samples = self.samples.get(&(row, kind)).map_or(&[][..], Vec::as_slice);
        samples.iter().map(|sample| sample.map(|sample| sample.value)).collect()
    }

    /// One table: medians, and the median of each round's ratios with their range.
    pub(crate) fn markdown(&self, rows: &[Row], programs: &Programs, bounds: Bounds, rounds: u32) -> String {
        use ServerKind::{Mosquitto, Postrider, Relay};
        let version = if bounds.version == ProtocolVersion::V5 { "5.0" } else { "3.1.1" };
        let mut out = format!(
            "{}; MQTT {version}; {rounds} rounds of at most {} s and {} messages a row; median\n\n",
            programs.versions.join(", "),
            bounds.seconds,
            bounds.messages
        );
        out.push_str(
            "| row | unit | relay | mosquitto | postrider | postrider / mosquitto (range) | / relay |\n",
        );
        out.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: |\n");
        for (at, row) in rows.iter().enumerate() {
            let [relay, mosquitto, postrider] =
                [Relay, Mosquitto, Postrider].map(|kind| self.values(at, kind));
            let to_mosquitto = ratios(&postrider, &mosquitto);
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                row.unit(),
                number(median(present(&relay))),
                number(median(present(&mosquitto))),
                number(median(present(&postrider))),
                with_range(&to_mosquitto),
                number(median(ratios(&postrider, &relay))),
            );
        }
        out
    }

    /// # Errors
    /// A measurement failed.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.failures.is_empty(), "measurements failed:\n{}", self.failures.join("\n"));
        Ok(())
    }
}

fn present(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().copied().flatten().collect()
}

fn ratios(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Vec<f64> {
    ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)).collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn with_range(values: &[f64]) -> String {
    let Some(middle) = median(values.to_vec()) else { return "–".to_owned() };
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    format!("**{middle:.2}** ({low:.2}–{high:.2})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        for (values, expected) in
            [(vec![], None), (vec![3.0, 1.0, 2.0], Some(2.0)), (vec![4.0, 1.0, 2.0, 3.0], Some(2.5))]
        {
            assert_eq!(median(values), expected);
        }
    }

    #[test]
    fn a_failed_round_is_in_no_ratio() {
        assert_eq!(ratios(&[Some(1.0), None, Some(3.0)], &[Some(2.0), Some(1.0), None]), [0.5]);
    }
}
