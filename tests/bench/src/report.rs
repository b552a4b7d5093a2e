//! Figures to medians and ratios, and those to a Markdown table and to bars.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Error, Result, ensure};
use protocol::ProtocolVersion;

use crate::{
    Bounds,
    plot::Bar,
    rows::Row,
    servers::{Programs, ServerKind},
};

/// One thing measured: CPU microseconds, bytes, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    /// What was counted.
    pub(crate) count: u64,
    pub(crate) wall_s: f64,
    /// How many cores the server and the load kept busy.
    pub(crate) shares: Option<[f64; 2]>,
}

impl Figure {
    pub(crate) fn new(unit: &'static str) -> Self {
        Self { unit, value: 0.0, count: 0, wall_s: 0.0, shares: None }
    }
}

/// Values of one figure of one server; one entry a round, `None` where it failed.
type Rounds = Vec<Option<f64>>;

/// What was measured of a row: its figures in the order in which they are told.
type Figures = Vec<(&'static str, BTreeMap<ServerKind, Rounds>)>;

/// All measurements.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// By row.
    samples: BTreeMap<usize, Figures>,
    rounds: BTreeMap<(usize, ServerKind), usize>,
    /// What failed at other brokers: that is told.
    peers: Vec<String>,
    /// What failed here.
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        at: usize,
        row: &Row,
        kind: ServerKind,
        outcome: Result<Vec<Figure>, Error>,
    ) {
        let round = self.rounds.entry((at, kind)).or_default();
        *round += 1;
        match outcome {
            Ok(figures) => {
                let of_row = self.samples.entry(at).or_default();
                for Figure { unit, value, .. } in figures {
                    let place = of_row.iter().position(|(other, _)| *other == unit).unwrap_or_else(|| {
                        of_row.push((unit, BTreeMap::new()));
                        of_row.len() - 1
                    });
                    let values = of_row[place].1.entry(kind).or_default();
                    values.resize(*round - 1, None);
                    values.push(Some(value));
                }
            }
            Err(error) => {
                let text = format!("{}: {kind}: {error:#}", row.name);
                let list = if kind.is_peer() { &mut self.peers } else { &mut self.failures };
                if !list.contains(&text) {
                    list.push(text);
                }
            }
        }
    }

    /// One table: medians, and the medians of each round's ratios, that to mosquitto with its range.
    pub(crate) fn markdown(
        &self,
        rows: &[Row],
        servers: &[ServerKind],
        programs: &Programs,
        bounds: Bounds,
        rounds: u32,
    ) -> String {
        let version = if bounds.version == ProtocolVersion::V5 { "5.0" } else { "3.1.1" };
        let mut out = format!(
            "{}; MQTT {version}; {rounds} rounds of at most {} s and {} messages a row; median\n\n",
            programs.versions.join(", "),
            bounds.seconds,
            bounds.messages
        );
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            out,
            "| row | unit | {} | to mosquitto (range) | to the relay | to the best peer |",
            names.join(" | ")
        );
        let _ = writeln!(out, "| --- | --- |{} ---: | ---: | ---: |", " ---: |".repeat(servers.len()));
        for (row, unit, by_server) in self.figures(rows) {
            let _ = write!(out, "| {} | {unit} |", row.name);
            for kind in servers {
                let _ = write!(
                    out,
                    " {} |",
                    number(by_server.get(kind).and_then(|rounds| median(present(rounds))))
                );
            }
            let ratio = |other| self.ratio(by_server, other);
            let best = by_server
                .iter()
                .filter(|(kind, _)| kind.is_peer())
                .filter_map(|(kind, rounds)| Some((*kind, median(present(rounds))?)))
                .min_by(|(_, one), (_, other)| one.total_cmp(other));
            let best = best
                .map_or("–".to_owned(), |(kind, _)| format!("{} ({kind})", number(median(ratio(kind)))));
            let (mosquitto, relay) =
                (with_range(&ratio(ServerKind::Mosquitto)), number(median(ratio(ServerKind::Relay))));
            let _ = writeln!(out, " {mosquitto} | {relay} | {best} |");
        }
        if !self.peers.is_empty() {
            let _ = write!(out, "\nNot measured:\n\n- {}\n", self.peers.join("\n- "));
        }
        out
    }

    /// What the plot shows: each row's first figure.
    pub(crate) fn bars(&self, rows: &[Row], servers: &[ServerKind]) -> Vec<Bar> {
        let mut bars: Vec<Bar> = Vec::new();
        for (row, unit, by_server) in self.figures(rows) {
            if bars.last().is_some_and(|bar| bar.row == row.name) {
                continue;
            }
            let value = |kind: &ServerKind| Some((kind.to_string(), median(present(by_server.get(kind)?))?));
            bars.push(Bar {
                row: row.name.clone(),
                unit,
                values: servers.iter().filter_map(value).collect(),
            });
        }
        bars
    }

    fn figures<'a>(
        &'a self,
        rows: &'a [Row],
    ) -> impl Iterator<Item = (&'a Row, &'static str, &'a BTreeMap<ServerKind, Rounds>)> {
        self.samples
            .iter()
            .flat_map(|(at, figures)| figures.iter().map(|(unit, by_server)| (&rows[*at], *unit, by_server)))
    }

    fn ratio(&self, by_server: &BTreeMap<ServerKind, Rounds>, other: ServerKind) -> Vec<f64> {
        match (by_server.get(&ServerKind::Postrider), by_server.get(&other)) {
            (Some(ours), Some(theirs)) => ratios(ours, theirs),
            _ => Vec::new(),
        }
    }

    /// # Errors
    /// A measurement of postrider or the relay failed.
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

/// Three digits, for people.
pub(crate) fn number(value: Option<f64>) -> String {
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
