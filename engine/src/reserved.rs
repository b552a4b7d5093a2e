//! Topics and filters that start with `$`: what clients may do with them (docs/protocol.md section 11).

use protocol::ReasonCode;
use protocol::im::{ENVELOPE_PREFIX, ERRORS_TOPIC, INBOX_TOPIC, MINE_FILTER, PROBE_PREFIX, RECEIPTS_TOPIC};

/// What a SUBSCRIBE filter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterClass {
    /// A filter over topics.
    Ordinary,
    /// A filter over topics whose messages come in envelopes.
    Envelope,
    /// The user's own receipts.
    Receipts,
    /// The client's own failed requests.
    Errors,
    /// The results of the client's own probes.
    Probe,
    /// Every conversation that the user is a member of.
    Mine,
    /// The list of these.
    Inbox,
    /// Not to be had, with the reason.
    Refused(ReasonCode, &'static str),
}

pub(crate) fn classify_filter(filter: &str) -> FilterClass {
    let Some(rest) = filter.strip_prefix("$im/") else {
        return if filter == "$im" {
            FilterClass::Refused(ReasonCode::TopicFilterInvalid, UNKNOWN)
        } else {
            FilterClass::Ordinary
        };
    };
    if let Some(inner) = filter.strip_prefix(ENVELOPE_PREFIX) {
        return classify_enveloped(inner);
    }
    if filter == RECEIPTS_TOPIC {
        return FilterClass::Receipts;
    }
    if filter == ERRORS_TOPIC {
        return FilterClass::Errors;
    }
    if filter.strip_prefix(PROBE_PREFIX).is_some_and(|id| !id.contains('/') && id != "#") {
        return FilterClass::Probe;
    }
    if is_presence(rest) {
        return FilterClass::Ordinary;
    }
    if filter == MINE_FILTER {
        return FilterClass::Mine;
    }
    if filter == INBOX_TOPIC {
        return FilterClass::Inbox;
    }
    if rest.starts_with(['#', '+']) {
        return FilterClass::Refused(ReasonCode::TopicFilterInvalid, "no wildcard may follow $im/");
    }
    FilterClass::Refused(ReasonCode::TopicFilterInvalid, UNKNOWN)
}

fn classify_enveloped(filter: &str) -> FilterClass {
    let refused = |what| FilterClass::Refused(ReasonCode::TopicFilterInvalid, what);
    match classify_filter(filter) {
        _ if filter.is_empty() => refused("no filter follows $im/env/"),
        _ if filter.starts_with("$share/") => {
            refused("$share stands before $im/env: $share/GROUP/$im/env/FILTER")
        }
        _ if filter.starts_with(ENVELOPE_PREFIX) => refused("an envelope comes in no envelope"),
        FilterClass::Ordinary => FilterClass::Envelope,
        FilterClass::Refused(reason, what) => FilterClass::Refused(reason, what),
        _ => refused("what is one user's own comes in no envelope"),
    }
}

/// Says what the filter inside a shared subscription asks for; `replays` when its SUBSCRIBE asks for replay.
pub(crate) fn classify_shared_filter(filter: &str, replays: bool) -> FilterClass {
    if replays || filter.starts_with("$im/from/") {
        let what = "replay cannot be shared: leave $share away";
        return FilterClass::Refused(ReasonCode::ImplementationSpecificError, what);
    }
    match classify_filter(filter) {
        FilterClass::Receipts
        | FilterClass::Errors
        | FilterClass::Probe
        | FilterClass::Mine
        | FilterClass::Inbox => {
            let what = "what is one user's own cannot be shared: leave $share away";
            FilterClass::Refused(ReasonCode::TopicFilterInvalid, what)
        }
        class => class,
    }
}

/// A client's presence, or everyone's: a client id is one level.
fn is_presence(rest: &str) -> bool {
    rest.strip_prefix("presence/").is_some_and(|client| !client.contains('/'))
}

const UNKNOWN: &str = "this $im topic is not served; docs/protocol.md names those that are";

/// Checks a topic that a client publishes to, or its will.
pub(crate) fn check_publish_topic(topic: &str) -> Result<(), (ReasonCode, &'static str)> {
    if !topic.starts_with('$') {
        return Ok(());
    }
    if topic == "$im" || topic.starts_with("$im/") {
        return Err((ReasonCode::NotAuthorized, "clients may not publish to this $im topic"));
    }
    Err((ReasonCode::TopicNameInvalid, "topics that start with $ belong to the broker"))
}
