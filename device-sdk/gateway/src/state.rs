//! What the gateway says of itself and what is wanted of it: the device twin.

use std::collections::BTreeMap;
use std::sync::Arc;

use device_sdk::Incoming;
use device_sdk::twin::{Desired, TwinError, TwinRunner};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Seconds between positions, at most, that may be wished.
pub(crate) const INTERVAL_S_MAX: u64 = 3_600;
/// What is said of so many fields that cannot be done; the others are left out.
const REFUSED_MAX: usize = 16;
const REFUSED_NAME_CHARS_MAX: usize = 64;

/// The bytes of a signed manifest, `None` when none is wanted.
pub(crate) type Wish = Option<Vec<u8>>;

/// The twin, and what of it is in force.
pub(crate) struct State {
    twin: Arc<TwinRunner>,
    /// As the configuration says, when nobody wishes something else.
    configured_interval_s: u64,
    interval_s: u64,
    /// To the task that updates, where updates are taken.
    wishes: Option<watch::Sender<Wish>>,
    /// By field, why it was not done.
    refused: BTreeMap<String, String>,
}

impl State {
    /// Takes up what was wanted before the restart.
    pub(crate) async fn new(
        twin: Arc<TwinRunner>,
        interval_s: u64,
        wishes: Option<watch::Sender<Wish>>,
    ) -> Self {
        let wanted_s = twin.desired().and_then(|desired| interval(&desired["interval_s"]));
        let in_force_s = wanted_s.unwrap_or(interval_s);
        let mut state = Self {
            twin,
            configured_interval_s: interval_s,
            interval_s: in_force_s,
            wishes,
            refused: BTreeMap::new(),
        };
        state.report(json!({ "interval_s": in_force_s, "gateway": env!("CARGO_PKG_VERSION") })).await;
        state.follow(state.twin.delta()).await;
        state
    }

    /// Seconds between positions that are sent, at least.
    pub(crate) fn interval_s(&self) -> u64 {
        self.interval_s
    }

    /// Takes a message of the twin's topic: `false` for another topic.
    pub(crate) async fn take(&mut self, incoming: &Incoming) -> Result<bool, TwinError> {
        match self.twin.handle(incoming).await? {
            None => return Ok(false),
            Some(Desired::Refused { .. }) => {}
            Some(Desired::Taken { delta } | Desired::Known { delta }) => self.follow(delta).await,
        }
        Ok(true)
    }

    /// Changes what is reported; an error is logged, since the gateway goes on without.
    pub(crate) async fn report(&self, patch: Value) {
        if let Err(error) = self.twin.report(patch).await {
            tracing::error!(%error, "the state was not reported");
        }
    }

    /// Reports how an update stands, and whether it is what was wanted.
    pub(crate) async fn updated(&mut self, firmware: Value, end: UpdateEnd) {
        let mut patch = json!({ "firmware": firmware });
        match end {
            UpdateEnd::None => drop(self.refused.remove("update")),
            UpdateEnd::Done => {
                self.refused.remove("update");
                // What is wanted is so: nothing differs any more.
                patch["update"] = self.wanted_update().unwrap_or(Value::Null);
            }
            UpdateEnd::Refused(why) => drop(self.refused.insert("update".to_owned(), why)),
        }
        patch["refused"] = self.refused_patch();
        self.report(patch).await;
    }

    fn wanted_update(&self) -> Option<Value> {
        self.twin.desired().and_then(|desired| desired.get("update").cloned())
    }

    /// Does what is wanted and not reported.
    async fn follow(&mut self, delta: Option<Value>) {
        let mut patch = json!({});
        let update_refused = self.refused.remove_entry("update");
        self.refused.clear();
        let fields = delta.as_ref().and_then(Value::as_object);
        for (field, wanted) in fields.into_iter().flatten() {
            let done = match (field.as_str(), &self.wishes) {
                ("interval_s", _) if wanted.is_null() => {
                    self.interval_s = self.configured_interval_s;
                    Ok(Some(Value::Null))
                }
                ("interval_s", _) => match interval(wanted) {
                    Some(interval_s) => {
                        self.interval_s = interval_s;
                        Ok(Some(interval_s.into()))
                    }
                    None => Err(format!("it is not a number of seconds, 0 to {INTERVAL_S_MAX}")),
                },
                ("update", None) => Err("this gateway takes no updates: it has no [update]".to_owned()),
                ("update", Some(wishes)) => {
                    // As a whole: the difference has only those of its fields that are new.
                    let wish = self.wanted_update().filter(|update| !update.is_null());
                    let wish = wish.map(|update| update.to_string().into_bytes());
                    wishes.send_if_modified(|last| std::mem::replace(last, wish.clone()) != wish);
                    self.refused.extend(update_refused.clone());
                    Ok(wanted.is_null().then_some(Value::Null))
                }
                _ => Err("it cannot be wished".to_owned()),
            };
            match done {
                Ok(Some(now)) => patch[field] = now,
                Ok(None) => {}
                Err(why) if self.refused.len() < REFUSED_MAX => {
                    tracing::warn!(field, why, "a wish was not done");
                    self.refused.insert(field.chars().take(REFUSED_NAME_CHARS_MAX).collect(), why);
                }
                Err(_) => {}
            }
        }
        patch["refused"] = self.refused_patch();
        self.report(patch).await;
    }

    /// What makes the reported refusals those of now.
    fn refused_patch(&self) -> Value {
        if self.refused.is_empty() {
            return Value::Null;
        }
        let reported: Value = serde_json::from_slice(&self.twin.document()).unwrap_or_default();
        let gone = reported["refused"].as_object().into_iter().flatten();
        let mut patch: serde_json::Map<String, Value> =
            gone.map(|(field, _)| (field.clone(), Value::Null)).collect();
        patch.extend(self.refused.iter().map(|(field, why)| (field.clone(), why.as_str().into())));
        patch.into()
    }
}

/// How a wish for an update ended, if it did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UpdateEnd {
    /// Not yet.
    None,
    /// It runs.
    Done,
    /// It will not.
    Refused(String),
}

fn interval(wanted: &Value) -> Option<u64> {
    wanted.as_u64().filter(|interval_s| *interval_s <= INTERVAL_S_MAX)
}
