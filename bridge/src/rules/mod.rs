//! Rules: which events people hear of, in which words, how urgently, through which sinks, and who is told when nobody answers.
//!
//! Owns the checked form of `[[rule]]` and what follows from an event alone. What must be remembered (open alerts, what waits for the end
//! of quiet hours, what is muted) is the core's. A template that fails never costs an alert: it is told in plain words instead.

mod quiet;
mod template;

use std::fmt;

use device_sdk::topic_matches;
use minijinja::Value;

pub use self::quiet::Quiet;
pub(crate) use self::{quiet::zone, template::Templates};
use crate::{config::DevicePattern, notice::Severity};

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it is called; unique.
    pub name: String,
    /// What it looks at.
    pub source: Source,
    /// Of which devices.
    pub devices: DevicePattern,
    /// Holds for events that are meant; all if absent.
    pub when: Option<String>,
    /// How much it matters; by the event's kind if absent.
    pub severity: Option<Severity>,
    /// The headline, a template.
    pub title: Option<String>,
    /// What people read, a template; the bridge's own words if absent.
    pub text: Option<String>,
    /// What makes two events one episode, a template; the device if absent.
    pub key: Option<String>,
    /// The names of the sinks that are told, `dispatch` for the conversation; all if empty.
    pub to: Vec<String>,
    /// Kinds of events that end the episode.
    pub until: Vec<String>,
    /// Holds for the messages of the same source that end the episode.
    pub clear: Option<String>,
    /// How long nothing more is told of an episode, milliseconds; until its end if absent.
    pub repeat_ms: Option<u64>,
    /// When only the conversation is told, and the others afterwards; what is critical is told at once.
    pub quiet: Option<Quiet>,
    /// Who is told when nobody acknowledges, in the order of time.
    pub escalate: Vec<Step>,
}

/// What a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Events of these kinds that the bridge sees in tracks.
    Events(Vec<String>),
    /// Messages, by a topic filter.
    Topic(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Events(kinds) => f.write_str(&kinds.join(", ")),
            Source::Topic(filter) => write!(f, "messages on {filter}"),
        }
    }
}

/// One step of an escalation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from when the alert was raised, milliseconds.
    pub after_ms: u64,
    /// The names of the sinks.
    pub to: Vec<String>,
}

/// All rules of a configuration, in their order.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    templates: Templates,
}

/// What happened, as rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Event<'a> {
    /// For instance `route_deviation`; `message` for one from a topic.
    pub(crate) kind: &'a str,
    /// For a message, its topic.
    pub(crate) topic: Option<&'a str>,
    pub(crate) device: &'a str,
    /// Everything that is known, as templates see it.
    pub(crate) fields: Value,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules::new(Vec::new())
    }
}

impl Rules {
    /// Puts rules together; their templates and conditions have been checked.
    pub fn new(rules: Vec<Rule>) -> Rules {
        Rules { rules, templates: Templates::new() }
    }

    /// Returns the rules in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Whether there is none: then everything that the bridge sees is told to all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns a rule by its name.
    pub(crate) fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// Returns the topic filters that rules look at.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match &rule.source {
            Source::Topic(filter) => Some(filter.as_str()),
            Source::Events(_) => None,
        })
    }

    /// Returns the rules that an event is told by.
    pub(crate) fn matching<'a>(&'a self, event: &'a Event<'_>) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| {
            rule.looks_at(event) && rule.when.as_deref().is_none_or(|when| self.holds(rule, when, event))
        })
    }

    /// Returns the rules whose episode this event ends.
    pub(crate) fn ended_by<'a>(&'a self, event: &'a Event<'_>) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| {
            let by_kind = event.topic.is_none()
                && rule.devices.matches(event.device)
                && rule.until.iter().any(|kind| kind == event.kind);
            let clear = || rule.clear.as_deref().is_some_and(|clear| self.holds(rule, clear, event));
            by_kind || rule.looks_at(event) && clear()
        })
    }

    /// Fills one of a rule's templates; one that fails is told to the log and left out.
    pub(crate) fn fill(&self, rule: &Rule, template: Option<&str>, event: &Event<'_>) -> Option<String> {
        match self.templates.text(template?, &event.fields) {
            Ok(text) => Some(text),
            Err(why) => {
                tracing::warn!(
                    rule = rule.name,
                    why,
                    "a template cannot be filled, the alert is told without it"
                );
                None
            }
        }
    }

    /// What makes two events of a rule one episode.
    pub(crate) fn key(&self, rule: &Rule, event: &Event<'_>) -> String {
        self.fill(rule, rule.key.as_deref(), event).unwrap_or_else(|| event.device.to_owned())
    }

    fn holds(&self, rule: &Rule, condition: &str, event: &Event<'_>) -> bool {
        self.templates.holds(condition, &event.fields).unwrap_or_else(|why| {
            tracing::warn!(
                rule = rule.name,
                condition,
                why,
                "a condition has no answer, so it does not hold"
            );
            false
        })
    }
}

impl Rule {
    /// Whether it is about events from here, whatever its condition says.
    fn looks_at(&self, event: &Event<'_>) -> bool {
        self.devices.matches(event.device)
            && match (&self.source, event.topic) {
                (Source::Events(kinds), None) => kinds.iter().any(|kind| kind == event.kind),
                (Source::Topic(filter), Some(topic)) => topic_matches(filter, topic),
                _ => false,
            }
    }

    /// Whether its alerts are remembered, so that an episode has an end, a repetition or an escalation.
    pub(crate) fn has_episodes(&self) -> bool {
        !self.until.is_empty()
            || self.clear.is_some()
            || self.repeat_ms.is_some()
            || !self.escalate.is_empty()
    }
}
