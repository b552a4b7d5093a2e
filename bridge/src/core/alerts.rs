//! Alerts: events that rules tell people of, until they end, are acknowledged, or somebody else must be told.
//!
//! ```text
//! event ──▶ raised ──▶ told again after repeat_s ──▶ ended by an event      (those that were told hear of it)
//!              ├─────▶ escalated, step by step, while nobody acknowledges
//!              └─────▶ acknowledged ───────────────▶ ended by an event
//! ```
//!
//! An alert is told to a sink once a step. In quiet hours what is told waits for their end, for sinks other than the conversation; what is
//! critical does not wait, and what ended before is not told at all.

use minijinja::Value;
use serde_json::{Map, Value as Json, json};

use super::{Chat, Core, Message, PAYLOAD_BYTES_MAX};
use crate::{
    config::{DISPATCH, Rule},
    ids,
    notice::Severity,
    report::{self, Kind, Post, span},
    rules::Event,
    state::{Alert, Change, Entry, Held, Mute, Target},
};

/// Most alerts that are open at a time; beyond it events are told without being remembered.
const ALERTS_MAX: usize = 10_000;
/// Most messages that wait for the end of quiet hours; beyond it they do not wait.
const HELD_MAX: usize = 10_000;
/// Most things that are muted at a time.
const MUTES_MAX: usize = 1_000;
/// How long an alert that nothing ends stays open, milliseconds.
const OPEN_MS: u64 = 24 * 3_600_000;

/// What a message about an alert says of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Raised,
    Repeated,
    Escalated,
    Ended,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Raised => "raised",
            Phase::Repeated => "repeated",
            Phase::Escalated => "escalated",
            Phase::Ended => "ended",
        }
    }
}

/// One message about an alert.
struct News<'a> {
    rule: &'a Rule,
    phase: Phase,
    /// What it has besides what every such message has.
    json: Map<String, Json>,
    targets: Vec<Target>,
}

impl Core {
    /// Takes what was seen of a vehicle.
    pub(super) fn sighted(&mut self, out: &mut Vec<Change>, now_ms: u64, device: &str, post: &Post) {
        tracing::debug!(device, text = post.text, "event");
        if self.config.rules.is_empty() {
            if !post.kind.is_told_without_rules() {
                return;
            }
            self.counts.alerts += 1;
            for target in self.targets() {
                self.put_post(out, now_ms, target, post);
            }
            return;
        }
        let fields = Value::from_serialize(post);
        self.event(out, now_ms, &Event { kind: post.kind.as_str(), topic: None, device, fields }, post);
    }

    /// Takes a message on a topic that rules are about.
    pub(super) fn message(&mut self, out: &mut Vec<Change>, now_ms: u64, message: &Message<'_>) {
        // What is retained was told when it was published.
        if message.retain {
            return;
        }
        let Message { topic, payload, .. } = *message;
        let payload = &payload[..payload.len().min(PAYLOAD_BYTES_MAX)];
        let device = topic.strip_prefix("dev/").and_then(|rest| rest.split('/').next()).unwrap_or(topic);
        let ts_ms = message.ts_ms.unwrap_or(now_ms);
        let json: Json = serde_json::from_slice(payload)
            .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(payload).into_owned()));
        // Without an id from the broker the time tells two of the same words apart.
        let key = match message.id {
            Some(id) => format!("{topic} id {id}"),
            None => format!("{topic} at {ts_ms} {json}"),
        };
        let post = report::message(topic, device, &key, payload, ts_ms);
        let fields = Value::from_serialize(json!({
            "kind": "message", "topic": topic, "device": device, "ts": ts_ms, "text": post.text, "payload": json,
        }));
        self.event(out, now_ms, &Event { kind: "message", topic: Some(topic), device, fields }, &post);
    }

    fn event(&mut self, out: &mut Vec<Change>, now_ms: u64, event: &Event<'_>, post: &Post) {
        let config = std::sync::Arc::clone(&self.config);
        // The bridge's own words for a message are the message itself, which says less to people than to programs.
        let words = event.topic.is_none().then_some(post.text.as_str());
        for rule in config.rules.ended_by(event) {
            self.end(out, now_ms, rule, &config.rules.key(rule, event), words);
        }
        for rule in config.rules.matching(event) {
            self.raise(out, now_ms, rule, event, post);
        }
    }

    fn raise(&mut self, out: &mut Vec<Change>, now_ms: u64, rule: &Rule, event: &Event<'_>, post: &Post) {
        let rules = &self.config.rules;
        let key = rules.key(rule, event);
        if let Some(open) = self.state.alerts.get(&(rule.name.clone(), key.clone())) {
            self.again(out, now_ms, rule, open.clone(), event);
            return;
        }
        let severity = rule.severity.unwrap_or_else(|| Severity::of_kind(event.kind));
        let text = rules.fill(rule, rule.text.as_deref(), event).unwrap_or_else(|| post.text.clone());
        let title = rules.fill(rule, rule.title.as_deref(), event);
        let targets = self.targets_of(&rule.to);
        let is_muted = self.is_muted(now_ms, rule, event.device);
        let mut alert = Alert {
            id: ids::derive("al", &[&rule.name, &key, &post.id]),
            rule: rule.name.clone(),
            key,
            kind: event.kind.to_owned(),
            device: event.device.to_owned(),
            severity,
            text,
            raised_ms: now_ms,
            told_ms: now_ms,
            count: 1,
            steps: 0,
            acknowledged_by: None,
            told: Vec::new(),
        };
        if is_muted {
            self.counts.alerts_suppressed += 1;
        } else {
            self.counts.alerts += 1;
            let mut json = post.to_map();
            if let Some(title) = title {
                json.insert("title".to_owned(), title.into());
            }
            self.tell_of(out, now_ms, &mut alert, News { rule, phase: Phase::Raised, json, targets });
        }
        self.remember(out, rule, alert);
    }

    fn remember(&mut self, out: &mut Vec<Change>, rule: &Rule, alert: Alert) {
        if !rule.has_episodes() {
            return;
        }
        if self.state.alerts.len() >= ALERTS_MAX {
            tracing::warn!(
                limit = ALERTS_MAX,
                rule = rule.name,
                "too many open alerts: this one is not remembered"
            );
            return;
        }
        self.change(out, Change::Alert(alert));
    }

    /// Another event of an episode that is open.
    fn again(
        &mut self,
        out: &mut Vec<Change>,
        now_ms: u64,
        rule: &Rule,
        mut alert: Alert,
        event: &Event<'_>,
    ) {
        alert.count += 1;
        let is_due = rule.repeat_ms.is_some_and(|pause_ms| now_ms.saturating_sub(alert.told_ms) >= pause_ms);
        if is_due && !self.is_muted(now_ms, rule, &alert.device) {
            self.counts.alerts += 1;
            alert.told_ms = now_ms;
            if let Some(text) = self.config.rules.fill(rule, rule.text.as_deref(), event) {
                alert.text = text;
            }
            let json = about(&alert);
            let targets = self.targets_of(&rule.to);
            self.tell_of(out, now_ms, &mut alert, News { rule, phase: Phase::Repeated, json, targets });
        } else {
            self.counts.alerts_suppressed += 1;
        }
        self.change(out, Change::Alert(alert));
    }

    /// Ends an episode; those that were told of it hear of its end.
    fn end(&mut self, out: &mut Vec<Change>, now_ms: u64, rule: &Rule, key: &str, why: Option<&str>) {
        let Some(mut alert) = self.state.alerts.get(&(rule.name.clone(), key.to_owned())).cloned() else {
            return;
        };
        self.change(out, Change::AlertGone { rule: alert.rule.clone(), key: alert.key.clone() });
        // What still waits was never heard of.
        let waiting: Vec<_> =
            self.state.held.values().filter(|held| held.alert == alert.id).cloned().collect();
        for held in &waiting {
            self.change(out, Change::Released { no: held.entry.no });
        }
        let unheard: Vec<_> = waiting.into_iter().map(|held| held.entry.target).collect();
        let targets: Vec<_> = alert.told.iter().filter(|target| !unheard.contains(target)).cloned().collect();
        let mut json = about(&alert);
        let after = span(now_ms.saturating_sub(alert.raised_ms));
        let text = match why {
            Some(words) => format!("over after {after}: {} ({words})", alert.text),
            None => format!("over after {after}: {}", alert.text),
        };
        json.insert("kind".to_owned(), Kind::AlertNews.as_str().into());
        alert.text = text;
        self.tell_of(out, now_ms, &mut alert, News { rule, phase: Phase::Ended, json, targets });
    }

    /// Puts one message about an alert for each target, or holds it until quiet hours end.
    fn tell_of(&mut self, out: &mut Vec<Change>, now_ms: u64, alert: &mut Alert, news: News<'_>) {
        let News { rule, phase, mut json, targets } = news;
        let step = alert.steps.to_string();
        let count = alert.count.to_string();
        let id = ids::derive("al", &[&alert.id, phase.as_str(), &step, &count]);
        for (key, value) in [
            ("id", Json::from(id.as_str())),
            ("text", alert.text.as_str().into()),
            ("severity", alert.severity.as_str().into()),
            ("rule", alert.rule.as_str().into()),
            ("alert", alert.id.as_str().into()),
            ("phase", phase.as_str().into()),
        ] {
            json.insert(key.to_owned(), value);
        }
        let kind = json.get("kind").and_then(Json::as_str).unwrap_or(&alert.kind).to_owned();
        let payload = Json::Object(json).to_string();
        let quiet_ms = rule.quiet.as_ref().and_then(|quiet| quiet.until_ms(now_ms));
        for target in &targets {
            let entry = self.entry(now_ms, target.clone(), id.clone(), &kind, payload.clone());
            match quiet_ms {
                Some(until_ms)
                    if alert.severity < Severity::Critical
                        && *target != Target::Broker
                        && self.state.held.len() < HELD_MAX =>
                {
                    let no = self.state.next_no();
                    let held = Held { until_ms, alert: alert.id.clone(), entry: Entry { no, ..entry } };
                    self.change(out, Change::Hold(held));
                }
                _ => self.put(out, now_ms, target.clone(), entry),
            }
            if phase != Phase::Ended && !alert.told.contains(target) {
                alert.told.push(target.clone());
            }
        }
    }

    /// What is due: steps of escalations, the ends of quiet hours, of mutes, and of alerts that nothing ends.
    pub(super) fn tick_alerts(&mut self, out: &mut Vec<Change>, now_ms: u64) {
        let held = self.state.held.values().filter(|held| held.until_ms <= now_ms);
        for Held { entry, .. } in held.cloned().collect::<Vec<_>>() {
            self.change(out, Change::Released { no: entry.no });
            self.put(out, now_ms, entry.target.clone(), entry);
        }
        let mutes = self.state.mutes.values().filter(|mute| mute.until_ms <= now_ms);
        for what in mutes.map(|mute| mute.what.clone()).collect::<Vec<_>>() {
            self.change(out, Change::MuteGone { what });
        }
        let config = std::sync::Arc::clone(&self.config);
        let due: Vec<_> =
            self.state.alerts.values().filter(|alert| self.deadline_of(alert) <= now_ms).cloned().collect();
        for mut alert in due {
            let step =
                config.rules.get(&alert.rule).and_then(|rule| Some((rule, rule.escalate.get(alert.steps)?)));
            match step {
                Some((rule, step)) if alert.acknowledged_by.is_none() => {
                    alert.steps += 1;
                    if !self.is_muted(now_ms, rule, &alert.device) {
                        let waited_ms = now_ms.saturating_sub(alert.raised_ms);
                        let mut json = about(&alert);
                        json.insert("unacknowledged_ms".to_owned(), waited_ms.into());
                        let urgent = format!("nobody acknowledged for {}: {}", span(waited_ms), alert.text);
                        let text = std::mem::replace(&mut alert.text, urgent);
                        let targets = self.targets_of(&step.to);
                        let news = News { rule, phase: Phase::Escalated, json, targets };
                        self.tell_of(out, now_ms, &mut alert, news);
                        alert.text = text;
                    }
                    self.change(out, Change::Alert(alert));
                }
                _ => self.change(out, Change::AlertGone { rule: alert.rule, key: alert.key }),
            }
        }
    }

    /// When something is due about alerts.
    pub(super) fn next_alert_deadline_ms(&self) -> Option<u64> {
        let held = self.state.held.values().map(|held| held.until_ms);
        let mutes = self.state.mutes.values().map(|mute| mute.until_ms);
        held.chain(mutes).chain(self.state.alerts.values().map(|alert| self.deadline_of(alert))).min()
    }

    /// When an alert's next step is due, or when it is forgotten.
    pub(super) fn deadline_of(&self, alert: &Alert) -> u64 {
        let rule = self.config.rules.get(&alert.rule);
        let step =
            rule.filter(|_| alert.acknowledged_by.is_none()).and_then(|rule| rule.escalate.get(alert.steps));
        if let Some(step) = step {
            return alert.raised_ms.saturating_add(step.after_ms);
        }
        let repeat_ms = match rule {
            // With an end of its own it lasts until then, but not for ever: its end may have been missed.
            Some(rule) if !rule.until.is_empty() || rule.clear.is_some() => OPEN_MS * 30,
            Some(rule) => rule.repeat_ms.unwrap_or(OPEN_MS),
            None => 0,
        };
        alert.told_ms.saturating_add(repeat_ms)
    }

    fn targets_of(&self, names: &[String]) -> Vec<Target> {
        if names.is_empty() {
            return self.targets();
        }
        names
            .iter()
            .map(|name| if name == DISPATCH { Target::Broker } else { Target::Sink(name.clone()) })
            .collect()
    }

    fn is_muted(&self, now_ms: u64, rule: &Rule, device: &str) -> bool {
        ["", device, &rule.name]
            .iter()
            .any(|what| self.state.mutes.get(*what).is_some_and(|mute| mute.until_ms > now_ms))
    }

    /// `/ack WHAT`: an alert's id or the start of it, or a device with all its alerts.
    pub(super) fn acknowledge(&mut self, out: &mut Vec<Change>, now_ms: u64, message: &Chat<'_>, what: &str) {
        let by = message.from.unwrap_or("somebody").to_owned();
        let is_meant = |alert: &&Alert| {
            alert.device == what || alert.id == what || alert.id.starts_with(&format!("al-{what}"))
        };
        let meant: Vec<_> = self.state.alerts.values().filter(is_meant).cloned().collect();
        let key = self.chat_id("ack", now_ms, message);
        let text = match meant.as_slice() {
            [] => format!("no open alert has the id or the device {what:?}"),
            [one] => format!("{by} acknowledged: {}", one.text),
            many => format!("{by} acknowledged {} alerts of {what}", many.len()),
        };
        let device = meant.first().map(|alert| alert.device.clone());
        for mut alert in meant {
            alert.acknowledged_by.get_or_insert_with(|| by.clone());
            self.change(out, Change::Alert(alert));
        }
        let post = report::news(Kind::AlertNews, &key, device.as_deref(), text, now_ms);
        self.put_post(out, now_ms, Target::Broker, &post);
    }

    /// `/mute 2h [WHAT]` and `/unmute [WHAT]` (for no time): a device, a rule, or everything.
    pub(super) fn mute(
        &mut self,
        out: &mut Vec<Change>,
        now_ms: u64,
        message: &Chat<'_>,
        what: String,
        for_ms: u64,
    ) {
        let key = self.chat_id("mute", now_ms, message);
        let by = message.from.map(str::to_owned);
        let words = if what.is_empty() { "everything".to_owned() } else { what.clone() };
        let who = by.as_deref().unwrap_or("somebody");
        let text = if for_ms == 0 {
            let text = match self.state.mutes.get(&what) {
                Some(_) => format!("{words} is told again ({who})"),
                None => format!("{words} was not muted"),
            };
            self.change(out, Change::MuteGone { what });
            text
        } else if self.state.mutes.len() >= MUTES_MAX && !self.state.mutes.contains_key(&what) {
            format!("{MUTES_MAX} devices and rules are muted, which is the most")
        } else {
            let until_ms = now_ms.saturating_add(for_ms);
            self.change(out, Change::Mute(Mute { what, until_ms, by: by.clone() }));
            format!("alerts of {words} are not told for {} ({who})", span(for_ms))
        };
        let post = report::news(Kind::Muted, &key, None, text, now_ms);
        self.put_post(out, now_ms, Target::Broker, &post);
    }
}

/// What every message about an alert has, when the event itself is gone.
fn about(alert: &Alert) -> Map<String, Json> {
    let mut json = Map::new();
    json.insert("ts".to_owned(), alert.raised_ms.into());
    json.insert("kind".to_owned(), alert.kind.as_str().into());
    json.insert("device".to_owned(), alert.device.as_str().into());
    json.insert("count".to_owned(), alert.count.into());
    json
}
