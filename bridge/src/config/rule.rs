//! `[[rule]]`: its keys, and how they become a [`Rule`].

use device_sdk::TopicFilter;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{DevicePattern, file::within};
use crate::{
    notice::Severity,
    report::Kind,
    rules::{Quiet, Rule, Source, Step, Templates, zone},
};

/// The conversation's name among the sinks.
pub(crate) const DISPATCH: &str = "dispatch";
/// What begins something that has an end, and what ends it.
const ENDS: [(&str, &str); 3] =
    [("route_deviation", "back_on_route"), ("wrong_way", "right_way"), ("standing", "moved_on")];
/// Most steps of an escalation.
const STEPS_MAX: usize = 10;
/// Longest template or condition, bytes.
const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// Longest time that a key may say, seconds: 30 days.
const SPAN_MAX_S: u64 = 30 * 24 * 3_600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RulePart {
    name: String,
    on: Option<Vec<String>>,
    topic: Option<String>,
    devices: Option<String>,
    when: Option<String>,
    severity: Option<Severity>,
    title: Option<String>,
    text: Option<String>,
    key: Option<String>,
    #[serde(default)]
    to: Vec<String>,
    until: Option<Vec<String>>,
    clear: Option<String>,
    repeat_s: Option<u64>,
    quiet: Option<String>,
    #[serde(default)]
    escalate: Vec<StepPart>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepPart {
    after_s: u64,
    to: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RulesPart {
    time_zone: Option<String>,
}

impl RulesPart {
    pub(super) fn zone(&self) -> Result<TimeZone, String> {
        zone(self.time_zone.as_deref().unwrap_or("UTC")).map_err(|why| format!("rules.{why}"))
    }
}

impl RulePart {
    /// Checks a rule; `sinks` are the names that it may speak to.
    pub(super) fn into_rule(self, zone: &TimeZone, sinks: &[String]) -> Result<Rule, String> {
        if self.name.is_empty() || self.name.len() > 128 {
            return Err(format!("name has {} bytes, it must have 1 to 128", self.name.len()));
        }
        let source = source(self.on, self.topic)?;
        let devices = match &self.devices {
            Some(filter) => super::file::device_pattern("devices", filter)?,
            None => DevicePattern::StartingWith(String::new()),
        };
        let templates = Templates::new();
        for (key, text) in [("title", &self.title), ("text", &self.text), ("key", &self.key)] {
            check(key, text.as_deref(), |text| templates.check_text(text))?;
        }
        for (key, text) in [("when", &self.when), ("clear", &self.clear)] {
            check(key, text.as_deref(), |text| templates.check_condition(text))?;
        }
        let until = match (self.until, &source) {
            (Some(kinds), _) => {
                kinds.into_iter().map(|kind| event_kind("until", kind)).collect::<Result<_, _>>()?
            }
            (None, Source::Events(kinds)) => ENDS
                .iter()
                .filter(|(begin, _)| kinds.iter().any(|kind| kind == begin))
                .map(|(_, end)| (*end).to_owned())
                .collect(),
            (None, _) => Vec::new(),
        };
        check_sinks("to", &self.to, sinks)?;
        if self.escalate.len() > STEPS_MAX {
            return Err(format!("escalate has {} steps, the limit is {STEPS_MAX}", self.escalate.len()));
        }
        let mut escalate = Vec::new();
        for step in self.escalate {
            let after_ms = within("escalate.after_s", step.after_s, 1, SPAN_MAX_S)? * 1_000;
            if escalate.last().is_some_and(|last: &Step| last.after_ms >= after_ms) {
                return Err(format!(
                    "escalate.after_s = {}: each step must come after the one before",
                    step.after_s
                ));
            }
            if step.to.is_empty() {
                return Err("escalate.to is empty, it must name sinks".to_owned());
            }
            check_sinks("escalate.to", &step.to, sinks)?;
            escalate.push(Step { after_ms, to: step.to });
        }
        let repeat_ms = match self.repeat_s {
            Some(seconds) => Some(within("repeat_s", seconds, 1, SPAN_MAX_S)? * 1_000),
            None => None,
        };
        let quiet = self.quiet.map(|span| Quiet::parse(&span, zone.clone())).transpose()?;
        Ok(Rule {
            name: self.name,
            source,
            devices,
            when: self.when,
            severity: self.severity,
            title: self.title,
            text: self.text,
            key: self.key,
            to: self.to,
            until,
            clear: self.clear,
            repeat_ms,
            quiet,
            escalate,
        })
    }
}

fn source(on: Option<Vec<String>>, topic: Option<String>) -> Result<Source, String> {
    match (on, topic) {
        (Some(kinds), None) if !kinds.is_empty() => {
            let kinds = kinds.into_iter().map(|kind| event_kind("on", kind)).collect::<Result<_, _>>()?;
            Ok(Source::Events(kinds))
        }
        (None, Some(filter)) if filter.starts_with('$') => {
            Err(format!("topic = {filter:?}: it must not start with $"))
        }
        (None, Some(filter)) => match TopicFilter::parse(filter.as_str().into()) {
            Ok(_) => Ok(Source::Topic(filter)),
            Err(error) => Err(format!("topic = {filter:?}: {error}")),
        },
        _ => Err("it needs either on = [\"route_deviation\"] or topic = \"dev/+/event/door\"".to_owned()),
    }
}

fn event_kind(key: &str, kind: String) -> Result<String, String> {
    if Kind::EVENTS.iter().any(|known| known.as_str() == kind) {
        return Ok(kind);
    }
    let known: Vec<_> = Kind::EVENTS.iter().map(|kind| kind.as_str()).collect();
    Err(format!("{key}: {kind:?} is no kind of event; there are {}", known.join(", ")))
}

fn check(key: &str, text: Option<&str>, read: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    let Some(text) = text else { return Ok(()) };
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(format!("{key} has {} bytes, the limit is {TEMPLATE_BYTES_MAX}", text.len()));
    }
    read(text).map_err(|why| format!("{key} = {text:?}: {why}"))
}

fn check_sinks(key: &str, names: &[String], sinks: &[String]) -> Result<(), String> {
    match names.iter().find(|name| *name != DISPATCH && !sinks.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<_> = std::iter::once(DISPATCH).chain(sinks.iter().map(String::as_str)).collect();
            Err(format!("{key}: no sink is called {name:?}; there are {}", known.join(", ")))
        }
    }
}
