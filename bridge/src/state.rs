//! What the bridge must not forget: unsent messages, where vehicles were last reported, open commands.
//!
//! A [`State`] is the sum of the [`Change`]s applied to it, and changes are what the journal stores: applying all stored
//! changes in order gives the state back, and [`State::snapshot`] gives the fewest changes that do.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::notice::Severity;

/// One change of the state, as the journal stores it. The JSON form is on disk: keys are only ever added, with a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// A message is to be sent.
    Put(Entry),
    /// The message with this number is delivered, or will never be.
    Done {
        /// [`Entry::no`].
        no: u64,
    },
    /// Messages that wait for one target are told as one, in the place of the first.
    Merged {
        /// Their numbers.
        nos: Vec<u64>,
        /// What they are told as; it has the first one's number.
        entry: Entry,
    },
    /// A message was given up and is kept.
    Dead(DeadLetter),
    /// It is kept no more.
    DeadGone {
        /// [`Entry::no`].
        no: u64,
    },
    /// What is known of a vehicle.
    Vehicle {
        /// Its device id.
        device: String,
        /// What is known.
        mark: VehicleMark,
    },
    /// A vehicle is forgotten.
    VehicleGone {
        /// Its device id.
        device: String,
    },
    /// A command was given, or more is known of it.
    Request(Request),
    /// A command is forgotten.
    RequestGone {
        /// [`Request::id`].
        id: String,
    },
    /// An alert was raised, or more is known of it.
    Alert(Alert),
    /// An alert is over and forgotten.
    AlertGone {
        /// [`Alert::rule`].
        rule: String,
        /// [`Alert::key`].
        key: String,
    },
    /// A message waits for the end of quiet hours.
    Hold(Held),
    /// A message that waited is put, or will never be.
    Released {
        /// [`Entry::no`] of the message.
        no: u64,
    },
    /// Alerts of something are not told for a time.
    Mute(Mute),
    /// They are told again.
    MuteGone {
        /// [`Mute::what`].
        what: String,
    },
    /// Numbers below this one were given before.
    NextNo {
        /// The next [`Entry::no`].
        no: u64,
    },
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The broker: the conversation, or a device's commands.
    Broker,
    /// The sink of this name.
    #[serde(rename = "webhook")]
    Sink(String),
}

/// A message that is to be sent to one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts entries over the outbox's life.
    pub no: u64,
    /// Where it goes.
    pub target: Target,
    /// Its `im-id` or idempotency key: the same however often it is sent.
    pub id: String,
    /// The `kind` of a message for people, `command` for one to a device.
    pub kind: String,
    /// When it was stored, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The JSON to send.
    pub payload: String,
    /// At the broker, the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// A command's end of life, milliseconds since the Unix epoch; also marks it as one that wants receipts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

/// What was last reported of a vehicle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VehicleMark {
    /// Since when it is off its route, if it was reported so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) off_route_since_ms: Option<i64>,
    /// Whether it was inside its fence, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<bool>,
}

/// A command that somebody gave in the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The command id.
    pub(crate) id: String,
    /// Who is to obey.
    pub(crate) device: String,
    /// The command's name.
    pub(crate) name: String,
    /// The message that gave it.
    pub(crate) source: Source,
    /// When the command dies, milliseconds since the Unix epoch.
    pub(crate) expires_at_ms: u64,
    /// The final status that the device gave and that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
    /// Whether no answer is expected any more.
    #[serde(default)]
    pub(crate) closed: bool,
    /// Receipts that have been told, as `state client`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) receipts: Vec<String>,
}

/// An episode that a rule told people of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// Its id, by which it is acknowledged.
    pub(crate) id: String,
    /// The rule's name.
    pub(crate) rule: String,
    /// What makes its events one episode.
    pub(crate) key: String,
    /// The kind of the event that began it.
    pub(crate) kind: String,
    pub(crate) device: String,
    pub(crate) severity: Severity,
    /// What people were told.
    pub(crate) text: String,
    /// When it was raised, milliseconds since the Unix epoch.
    pub(crate) raised_ms: u64,
    /// When it was last told.
    pub(crate) told_ms: u64,
    /// How many events it had.
    pub(crate) count: u64,
    /// How many steps of its rule's escalation were taken.
    #[serde(default)]
    pub(crate) steps: usize,
    /// Who acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledged_by: Option<String>,
    /// The sinks that were told, and must be told of its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) told: Vec<Target>,
}

/// A message that waits for the end of quiet hours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// When they end, milliseconds since the Unix epoch.
    pub(crate) until_ms: u64,
    /// [`Alert::id`] of what it is about: if that ends before, it is not told.
    pub(crate) alert: String,
    /// The message; it gets a new number when it is put.
    pub(crate) entry: Entry,
}

/// Alerts of something that are not told for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mute {
    /// A device, a rule's name, or empty for everything.
    pub(crate) what: String,
    /// Until when, milliseconds since the Unix epoch.
    pub(crate) until_ms: u64,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    /// When, milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// Why.
    pub(crate) why: String,
    /// The message.
    pub(crate) entry: Entry,
}

impl DeadLetter {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        self.entry.payload.len() + self.why.len() + 256
    }
}

/// Which chat message, by whom. Fields a broker does not tell are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// Its number in the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    /// Its `im-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
}

/// The sum of changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    queues: BTreeMap<Target, VecDeque<Entry>>,
    next_no: u64,
    pub(crate) vehicles: HashMap<String, VehicleMark>,
    /// By command id.
    pub(crate) requests: BTreeMap<String, Request>,
    /// Open alerts, by rule and key.
    pub(crate) alerts: BTreeMap<(String, String), Alert>,
    /// By the number they were held with.
    pub(crate) held: BTreeMap<u64, Held>,
    /// By what is muted.
    pub(crate) mutes: BTreeMap<String, Mute>,
    /// What was given up, by number.
    pub(crate) letters: BTreeMap<u64, DeadLetter>,
    letter_bytes: usize,
}

impl State {
    /// Applies one change. Changes that say what is so already do no harm.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(entry) => {
                self.next_no = self.next_no.max(entry.no + 1);
                self.queues.entry(entry.target.clone()).or_default().push_back(entry.clone());
            }
            Change::Done { no } => {
                for queue in self.queues.values_mut() {
                    // Nearly always the first.
                    if let Some(at) = queue.iter().position(|entry| entry.no == *no) {
                        queue.remove(at);
                        break;
                    }
                }
                self.queues.retain(|_, queue| !queue.is_empty());
            }
            Change::Merged { nos, entry } => {
                let queue = self.queues.entry(entry.target.clone()).or_default();
                if let Some(place) = queue.iter_mut().find(|place| place.no == entry.no) {
                    *place = entry.clone();
                }
                queue.retain(|waiting| waiting.no == entry.no || !nos.contains(&waiting.no));
            }
            Change::Dead(letter) => {
                self.next_no = self.next_no.max(letter.entry.no + 1);
                self.letter_bytes += letter.bytes();
                if let Some(old) = self.letters.insert(letter.entry.no, letter.clone()) {
                    self.letter_bytes -= old.bytes();
                }
            }
            Change::DeadGone { no } => {
                if let Some(letter) = self.letters.remove(no) {
                    self.letter_bytes -= letter.bytes();
                }
            }
            Change::Vehicle { device, mark } => {
                self.vehicles.insert(device.clone(), *mark);
            }
            Change::VehicleGone { device } => {
                self.vehicles.remove(device);
            }
            Change::Request(request) => {
                self.requests.insert(request.id.clone(), request.clone());
            }
            Change::RequestGone { id } => {
                self.requests.remove(id);
            }
            Change::Alert(alert) => {
                self.alerts.insert((alert.rule.clone(), alert.key.clone()), alert.clone());
            }
            Change::AlertGone { rule, key } => {
                self.alerts.remove(&(rule.clone(), key.clone()));
            }
            Change::Hold(held) => {
                self.next_no = self.next_no.max(held.entry.no + 1);
                self.held.insert(held.entry.no, held.clone());
            }
            Change::Released { no } => {
                self.held.remove(no);
            }
            Change::Mute(mute) => {
                self.mutes.insert(mute.what.clone(), mute.clone());
            }
            Change::MuteGone { what } => {
                self.mutes.remove(what);
            }
            Change::NextNo { no } => self.next_no = self.next_no.max(*no),
        }
    }

    /// Returns the number for the next entry.
    pub(crate) fn next_no(&self) -> u64 {
        self.next_no
    }

    /// Returns about how many bytes the dead letters take.
    pub(crate) fn letter_bytes(&self) -> usize {
        self.letter_bytes
    }

    /// Returns what waits for a target, oldest first.
    pub(crate) fn queue(&self, target: &Target) -> impl ExactSizeIterator<Item = &Entry> {
        static EMPTY: VecDeque<Entry> = VecDeque::new();
        self.queues.get(target).unwrap_or(&EMPTY).iter()
    }

    /// Returns the targets that something waits for.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.queues.keys()
    }

    /// Returns the changes that make this state from nothing.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Change> + '_ {
        let vehicles = self
            .vehicles
            .iter()
            .map(|(device, mark)| Change::Vehicle { device: device.clone(), mark: *mark });
        std::iter::once(Change::NextNo { no: self.next_no })
            .chain(vehicles)
            .chain(self.requests.values().cloned().map(Change::Request))
            .chain(self.alerts.values().cloned().map(Change::Alert))
            .chain(self.mutes.values().cloned().map(Change::Mute))
            .chain(self.held.values().cloned().map(Change::Hold))
            .chain(self.letters.values().cloned().map(Change::Dead))
            .chain(self.queues.values().flatten().cloned().map(Change::Put))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(no: u64, target: Target) -> Entry {
        Entry {
            no,
            target,
            id: format!("ev-{no}"),
            kind: "arrived".into(),
            created_ms: 5,
            payload: "{}".into(),
            topic: None,
            expires_at_ms: None,
        }
    }

    fn all(state: &State) -> Vec<Change> {
        let mut changes: Vec<_> = state.snapshot().collect();
        changes.sort_by_key(|change| format!("{change:?}"));
        changes
    }

    #[test]
    fn a_snapshot_makes_the_same_state_and_keeps_order_and_numbers() {
        let hook = || Target::Sink("ops".into());
        let mut state = State::default();
        for no in 0..5 {
            state.apply(&Change::Put(entry(no, if no % 2 == 0 { hook() } else { Target::Broker })));
        }
        state.apply(&Change::Done { no: 4 });
        state.apply(&Change::Done { no: 0 });
        let mark = VehicleMark { off_route_since_ms: Some(3), inside: Some(false) };
        state.apply(&Change::Vehicle { device: "a".into(), mark });
        state.apply(&Change::Vehicle { device: "b".into(), mark });
        state.apply(&Change::VehicleGone { device: "b".into() });
        let mut again = State::default();
        state.snapshot().for_each(|change| again.apply(&change));
        assert_eq!(all(&state), all(&again));
        assert_eq!(again.next_no(), 5, "a number is never given twice");
        assert_eq!(again.queue(&Target::Broker).map(|e| e.no).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(again.queue(&hook()).map(|e| e.no).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn the_form_on_disk_of_every_change_is_the_one_that_older_versions_wrote() {
        let golden = [
            r#"{"put":{"no":7,"target":"broker","id":"ev-7","kind":"arrived","created_ms":5,"payload":"{}","topic":"im/dispatch","expires_at_ms":9}}"#,
            r#"{"put":{"no":8,"target":{"webhook":"ops"},"id":"ev-8","kind":"arrived","created_ms":5,"payload":"{}"}}"#,
            r#"{"done":{"no":7}}"#,
            r#"{"merged":{"nos":[8,9],"entry":{"no":8,"target":{"webhook":"ops"},"id":"dig-8","kind":"digest","created_ms":5,"payload":"{}"}}}"#,
            r#"{"vehicle":{"device":"truck-7","mark":{"off_route_since_ms":3,"inside":false}}}"#,
            r#"{"vehicle_gone":{"device":"truck-7"}}"#,
            r#"{"request":{"id":"cmd-1","device":"truck-7","name":"unlock","source":{"seq":4,"id":"m-1","from":"alice"},"expires_at_ms":60000,"result":"done","closed":true,"receipts":["delivered truck-7"]}}"#,
            r#"{"request_gone":{"id":"cmd-1"}}"#,
            r#"{"alert":{"id":"al-1","rule":"off-route","key":"truck-7","kind":"route_deviation","device":"truck-7","severity":"critical","text":"off","raised_ms":1,"told_ms":2,"count":3,"steps":1,"acknowledged_by":"alice","told":["broker",{"webhook":"ops"}]}}"#,
            r#"{"alert_gone":{"rule":"off-route","key":"truck-7"}}"#,
            r#"{"hold":{"until_ms":9,"alert":"al-1","entry":{"no":8,"target":{"webhook":"ops"},"id":"ev-8","kind":"arrived","created_ms":5,"payload":"{}"}}}"#,
            r#"{"released":{"no":8}}"#,
            r#"{"mute":{"what":"truck-7","until_ms":9,"by":"alice"}}"#,
            r#"{"mute_gone":{"what":"truck-7"}}"#,
            r#"{"dead":{"at_ms":9,"why":"the server answered 400","entry":{"no":8,"target":{"webhook":"ops"},"id":"ev-8","kind":"arrived","created_ms":5,"payload":"{}"}}}"#,
            r#"{"dead_gone":{"no":8}}"#,
            r#"{"next_no":{"no":9}}"#,
        ];
        for json in golden {
            let change: Change = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!(serde_json::to_string(&change).unwrap(), json);
        }
    }
}
