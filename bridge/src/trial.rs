//! A recorded track through a configuration, on the record's own time: what would have been told, to whom. Nothing is sent or stored.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    config::{Config, DISPATCH},
    core::{Chat, Core, Counts, Input, Message, Outcome},
    notice::{Notice, Severity},
    state::{State, Target},
    topics::{self, Topic},
};

/// How long after the record's end what is still due (escalations, the end of quiet hours) is told, milliseconds.
const AFTERWARDS_MS: u64 = 24 * 3_600_000;

/// Something that a bridge would have told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The sink's name, or `dispatch` for the conversation; a topic for a command.
    pub to: String,
    /// How urgent it is.
    pub severity: Severity,
    /// The kind of the event.
    pub kind: String,
    /// The headline.
    pub title: String,
    /// What people read.
    pub text: String,
    /// The whole message.
    pub json: Value,
}

/// A bridge that only says what it would tell.
///
/// ```
/// use postrider_bridge::{Config, Trial};
///
/// let rules = "[[rule]]\nname = \"door\"\ntopic = \"dev/+/event/door\"\ntext = \"the door of {{ device }} is open\"";
/// let config = Config::parse(rules, "bridge.toml", std::path::Path::new("")).unwrap();
/// let mut trial = Trial::new(config, 1_000);
/// let told = trial.message(1_000, "dev/truck-7/event/door", br#"{"open":true}"#);
/// assert_eq!((told[0].to.as_str(), told[0].text.as_str()), ("dispatch", "the door of truck-7 is open"));
/// ```
#[derive(Debug)]
pub struct Trial {
    core: Core,
    dispatch_topic: String,
    now_ms: u64,
}

impl Trial {
    /// Begins at a time, milliseconds since the Unix epoch.
    pub fn new(config: Config, now_ms: u64) -> Trial {
        let dispatch_topic = config.dispatch_topic.clone();
        let (core, _) = Core::recover(Arc::new(config), State::default(), now_ms);
        Trial { core, dispatch_topic, now_ms }
    }

    /// Takes a message as it would have come from the broker; a time before the last one counts as that.
    pub fn message(&mut self, at_ms: u64, topic: &str, payload: &[u8]) -> Vec<Told> {
        let mut told = self.wait_until(at_ms);
        let now_ms = self.now_ms;
        let input = topics::parse(topic, &self.dispatch_topic).map(|topic| match topic {
            Topic::Dispatch => Input::Chat(Chat { payload, ts_ms: Some(at_ms), ..Chat::default() }),
            Topic::Gps { device } => Input::Gps { device, payload },
            Topic::Result { device } => Input::Result { device, payload },
            Topic::Receipts => Input::Receipt { payload },
        });
        if let Some(input) = input {
            self.core.handle(now_ms, input);
        }
        if self.core.has_rule_for(topic) {
            let message = Message { topic, payload, id: None, ts_ms: Some(at_ms), retain: false };
            self.core.handle(now_ms, Input::Message(message));
        }
        self.drain(&mut told);
        told
    }

    /// Ends the record: what is due within a day after it.
    pub fn finish(&mut self) -> Vec<Told> {
        self.wait_until(self.now_ms.saturating_add(AFTERWARDS_MS))
    }

    /// What the bridge has done so far.
    pub fn counts(&self) -> Counts {
        self.core.counts
    }

    fn wait_until(&mut self, at_ms: u64) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(due_ms) = self.core.next_deadline_ms().filter(|due_ms| *due_ms <= at_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            self.core.handle(self.now_ms, Input::Tick);
            self.drain(&mut told);
        }
        self.now_ms = self.now_ms.max(at_ms);
        told
    }

    fn drain(&mut self, told: &mut Vec<Told>) {
        for target in self.core.targets() {
            while let Some(entry) = self.core.take(&target, u64::MAX) {
                let notice = Notice::of(&entry);
                told.push(Told {
                    at_ms: self.now_ms,
                    to: match &target {
                        Target::Broker if entry.kind == "command" => entry.topic.clone().unwrap_or_default(),
                        Target::Broker => DISPATCH.to_owned(),
                        Target::Sink(name) => name.clone(),
                    },
                    severity: notice.severity,
                    kind: notice.kind,
                    title: notice.title,
                    text: notice.text,
                    json: serde_json::from_str(&entry.payload).unwrap_or_default(),
                });
                self.core.settle(self.now_ms, entry, Outcome::Delivered);
            }
        }
    }
}

/// A time as RFC 3339 writes it.
pub(crate) fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| time.to_string())
}

/// A time as people read it, UTC.
pub fn utc(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tests::{fix, rule};

    #[test]
    fn a_record_tells_what_a_bridge_would_have_told_and_when() {
        let text = r#"
            [[sink]]
            name = "pager"
            type = "webhook"
            url = "http://x/"
            [[rule]]
            name = "off-route"
            on = ["route_deviation"]
            to = ["dispatch"]
            escalate = [{ after_s = 60, to = ["pager"] }]
        "#;
        let mut config = Config::parse(text, "t", std::path::Path::new("")).unwrap();
        config.vehicles = vec![rule()];
        let mut trial = Trial::new(config, 0);
        let mut told = Vec::new();
        for second in 1..20 {
            let fix = serde_json::to_vec(&fix(second, 200.0, second as f64 * 18.0)).unwrap();
            told.extend(trial.message(second as u64 * 1_000, "dev/truck-7/telemetry/gps", &fix));
        }
        let raised_ms = told[0].at_ms;
        told.extend(trial.finish());
        let lines: Vec<_> =
            told.iter().map(|told| (told.at_ms, told.to.as_str(), told.kind.as_str())).collect();
        assert_eq!(
            lines,
            [(raised_ms, "dispatch", "route_deviation"), (raised_ms + 60_000, "pager", "route_deviation")]
        );
        assert_eq!(trial.counts().alerts, 1);
    }
}
