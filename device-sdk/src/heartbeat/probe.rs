//! What a probe says to the broker, and what it makes of the answers: for whoever holds its connection.
//!
//! A probe is a client of its own on a short connection beside the main one: it connects, subscribes to the topic of its answer,
//! asks, and is then silent until the answer comes, or until it is overdue.

use protocol::im::{self, ProbeRequest, ProbeResult, probe_topic};
use protocol::{QoS, ReasonCode};

use super::ProbeOutcome;
use crate::{Incoming, Message, Options, PublishError, Published, ReachOptions};

/// Longest time for connection, SUBSCRIBE and request, milliseconds.
pub const PROBE_SETUP_MS: u64 = 20_000;
/// How much later than its silence an answer may come: twice the shortest wait for a ping's, milliseconds.
pub const PROBE_GRACE_MS: u64 = 4_000;
/// What the Keep Alive of a probe's connection is above its silence, so that the broker ends what the network forgot.
const KEEP_ALIVE_ABOVE_S: u16 = 60;

/// A probe: see [`super::Action::StartProbe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its name, as the action gives it.
    pub id: u64,
    /// Its silence, seconds.
    pub after_s: u32,
}

impl Probe {
    /// Makes the options of its client: those of the main one without what makes it one, its session, will, queue and
    /// learning. `slot` is the least that no other probe of the device has, so that the broker sees few client identifiers.
    pub fn options(&self, main: &Options, slot: usize) -> Options {
        let named = !main.client_id.is_empty();
        let keep_alive_s = u16::try_from(self.after_s).unwrap_or(u16::MAX);
        Options {
            client_id: if named { format!("{}-probe{slot}", main.client_id) } else { String::new() },
            clean_start: true,
            session_expiry_s: 0,
            keep_alive_s: keep_alive_s.saturating_add(KEEP_ALIVE_ABOVE_S),
            adaptive_keepalive: None,
            will: None,
            manual_ack: false,
            queue: None,
            received_dir: None,
            // The address in use is a full one, which stands for one way.
            reach: ReachOptions { alternatives: Vec::new(), memory_file: None, ..main.reach.clone() },
            ..main.clone()
        }
    }

    /// Returns the filter to subscribe to, at QoS 0.
    pub fn filter(&self) -> String {
        probe_topic(&self.id.to_string())
    }

    /// Says whether the subscription is there: else it ends so.
    ///
    /// # Errors
    /// It was refused.
    pub fn subscribed(codes: &[ReasonCode]) -> Result<(), ProbeOutcome> {
        let is_granted = codes.first().is_some_and(|code| !code.is_failure());
        if is_granted { Ok(()) } else { Err(ProbeOutcome::Unsupported) }
    }

    /// Returns the request, which begins the silence.
    pub fn request(&self) -> Message {
        let request = ProbeRequest { id: self.id.to_string(), after_s: self.after_s };
        let payload = serde_json::to_vec(&request).expect("a string and a number are JSON");
        Message::new(im::PROBE_TOPIC, payload).qos(QoS::AtLeastOnce)
    }

    /// Says whether the broker has taken the request: else it ends so.
    ///
    /// # Errors
    /// It was refused, or there is no connection any more.
    pub fn asked(result: &Result<Published, PublishError>) -> Result<(), ProbeOutcome> {
        match result {
            // "No matching subscribers" is what a broker says that forwards it like any other message.
            Ok(published) if published.reason == ReasonCode::NoMatchingSubscribers => {
                Err(ProbeOutcome::Unsupported)
            }
            Ok(_) => Ok(()),
            Err(PublishError::Refused { .. }) => Err(ProbeOutcome::Unsupported),
            Err(_) => Err(ProbeOutcome::Broken),
        }
    }

    /// Reads a message that came: how the probe ends, `None` for what is not its answer.
    pub fn heard(&self, message: &Incoming) -> Option<ProbeOutcome> {
        if message.topic != self.filter() {
            return None;
        }
        Some(match serde_json::from_slice::<ProbeResult>(&message.payload) {
            // Nobody knows when; nothing is proven.
            Ok(result) if result.spoiled => ProbeOutcome::Spoiled { silent_s: 0 },
            Ok(_) => ProbeOutcome::Survived,
            Err(_) => ProbeOutcome::Unsupported,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(topic: &str, payload: &'static str) -> Option<ProbeOutcome> {
        let message = Incoming {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            properties: protocol::PublishProperties::default(),
            ack: None,
        };
        Probe { id: 7, after_s: 60 }.heard(&message)
    }

    #[test]
    fn answers_are_told_apart() {
        let survived = r#"{"id":"7","at":1,"spoiled":false}"#;
        assert_eq!(heard("$im/probe/7", survived), Some(ProbeOutcome::Survived));
        assert_eq!(heard("$im/probe/8", survived), None, "another probe's");
        let spoiled = r#"{"id":"7","at":1,"spoiled":true}"#;
        assert_eq!(heard("$im/probe/7", spoiled), Some(ProbeOutcome::Spoiled { silent_s: 0 }));
        assert_eq!(heard("$im/probe/7", "?"), Some(ProbeOutcome::Unsupported));
    }

    #[test]
    fn a_broker_that_knows_no_probes_is_told_by_its_codes() {
        assert_eq!(Probe::subscribed(&[ReasonCode::NotAuthorized]), Err(ProbeOutcome::Unsupported));
        assert_eq!(Probe::subscribed(&[]), Err(ProbeOutcome::Unsupported));
        assert_eq!(Probe::subscribed(&[ReasonCode::Success]), Ok(()));
        let published = |reason| Ok(Published { reason, seq: None, id: None, duplicate: false });
        assert_eq!(Probe::asked(&published(ReasonCode::Success)), Ok(()));
        let forwarded = published(ReasonCode::NoMatchingSubscribers);
        assert_eq!(Probe::asked(&forwarded), Err(ProbeOutcome::Unsupported));
        assert_eq!(Probe::asked(&Err(PublishError::ConnectionLost)), Err(ProbeOutcome::Broken));
    }

    #[test]
    fn a_probe_is_a_client_without_session_and_learning() {
        let main = Options::new("127.0.0.1:1883", "truck-7");
        let options = Probe { id: 1, after_s: 600 }.options(&main, 2);
        assert_eq!((options.client_id.as_str(), options.keep_alive_s), ("truck-7-probe2", 660));
        assert!(options.clean_start && options.session_expiry_s == 0 && options.adaptive_keepalive.is_none());
    }
}
