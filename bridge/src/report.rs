//! What the bridge tells people: the JSON of its messages and the words in them.
//!
//! Every message is one JSON object with at least `id`, `ts` (milliseconds since the Unix epoch), `kind` and `text` (for
//! people); `device` where one is meant. Alerts add `position` and `distance_m`, `arrived` the `fence`; what belongs to a
//! command adds `command` and the `request` that gave it. The same object goes to the conversation and to webhooks.

use serde::Serialize;
use serde_json::Value;
use tracks::LatLon;

use crate::{
    ids,
    state::{Request, Source},
    watch::{Sighting, What},
};

/// A fix older than this is told with its age, milliseconds.
const OLD_MS: u64 = 120_000;
/// How much of a device's words is repeated, characters.
const REASON_CHARS_MAX: usize = 300;

/// The kinds of the bridge's messages, by which they can be told from what people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A vehicle left its corridor.
    RouteDeviation,
    /// It is back.
    BackOnRoute,
    /// It entered its fence.
    Arrived,
    /// A command was not understood, or not sent.
    CommandRefused,
    /// What became of the message that carried a command.
    CommandReceipt,
    /// How a command ended.
    CommandResult,
    /// A message from a topic that a rule is about.
    Message,
    /// What became of an alert: it ended, or somebody acknowledged it.
    AlertNews,
    /// Alerts are not told for a time, or told again.
    Muted,
    /// A vehicle left its fence.
    LeftFence,
    /// It drives its route backwards.
    WrongWay,
    /// It drives it forwards again.
    RightWay,
    /// It stands on its route for long.
    Standing,
    /// It has moved on.
    MovedOn,
    /// Its fixes come again after a while without.
    GpsFound,
}

impl Kind {
    /// The kinds of events that a rule may be about.
    pub(crate) const EVENTS: [Kind; 9] = [
        Kind::RouteDeviation,
        Kind::BackOnRoute,
        Kind::Arrived,
        Kind::LeftFence,
        Kind::WrongWay,
        Kind::RightWay,
        Kind::Standing,
        Kind::MovedOn,
        Kind::GpsFound,
    ];

    /// Whether it is told where no rule says what is.
    pub(crate) fn is_told_without_rules(self) -> bool {
        matches!(self, Kind::RouteDeviation | Kind::BackOnRoute | Kind::Arrived)
    }

    const ALL: [Kind; 15] = [
        Kind::RouteDeviation,
        Kind::BackOnRoute,
        Kind::Arrived,
        Kind::CommandRefused,
        Kind::CommandReceipt,
        Kind::CommandResult,
        Kind::Message,
        Kind::AlertNews,
        Kind::Muted,
        Kind::LeftFence,
        Kind::WrongWay,
        Kind::RightWay,
        Kind::Standing,
        Kind::MovedOn,
        Kind::GpsFound,
    ];

    /// The word in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::RouteDeviation => "route_deviation",
            Kind::BackOnRoute => "back_on_route",
            Kind::Arrived => "arrived",
            Kind::CommandRefused => "command_refused",
            Kind::CommandReceipt => "command_receipt",
            Kind::CommandResult => "command_result",
            Kind::Message => "message",
            Kind::AlertNews => "alert_news",
            Kind::Muted => "muted",
            Kind::LeftFence => "left_fence",
            Kind::WrongWay => "wrong_way",
            Kind::RightWay => "right_way",
            Kind::Standing => "standing",
            Kind::MovedOn => "moved_on",
            Kind::GpsFound => "gps_found",
        }
    }

    /// Reads the word of the JSON.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One message for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Post {
    pub(crate) id: String,
    pub(crate) ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    #[serde(serialize_with = "kind_word")]
    pub(crate) kind: Kind,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<LatLon>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Source>,
}

/// A command inside a [`Post`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct CommandPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// A final status of `cmd/result`, a receipt's state, or `refused`.
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    data: Value,
}

fn kind_word<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

impl Post {
    /// The same as an object that more can be put into.
    pub(crate) fn to_map(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("a struct is an object, and all its keys are strings"),
        }
    }

    /// The JSON to send.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("all keys are strings and all numbers are finite or null")
    }

    fn plain(id: String, ts: u64, device: Option<&str>, kind: Kind, text: String) -> Post {
        let device = device.map(str::to_owned);
        Post {
            id,
            ts,
            device,
            kind,
            text,
            position: None,
            distance_m: None,
            fence: None,
            command: None,
            request: None,
        }
    }
}

/// What people hear of a message, when its rule has no words of its own. `key` names the message.
pub(crate) fn message(topic: &str, device: &str, key: &str, payload: &[u8], ts: u64) -> Post {
    let words = cut(&String::from_utf8_lossy(payload));
    Post::plain(ids::derive("ev", &[key]), ts, Some(device), Kind::Message, format!("{topic}: {words}"))
}

/// What people hear in the conversation of what somebody did with alerts; `key` names the chat message.
pub(crate) fn news(kind: Kind, key: &str, device: Option<&str>, text: String, now_ms: u64) -> Post {
    Post::plain(ids::derive("ans", &[key]), now_ms, device, kind, text)
}

/// What people hear of a vehicle.
pub(crate) fn alert(device: &str, sighting: &Sighting, now_ms: u64) -> Post {
    let for_ms = |ms: i64| span(u64::try_from(ms).unwrap_or(0));
    let plain = |kind, words| (kind, words, None, None);
    let (kind, words, far_m, fence) = match &sighting.what {
        What::Deviated { distance_m, half_width_m } => (
            Kind::RouteDeviation,
            format!(
                "route deviation: {device} is {distance_m:.0} m off its route (corridor {half_width_m:.0} m)"
            ),
            Some(*distance_m),
            None,
        ),
        What::Returned { distance_m, away_ms, distance_max_m } => {
            let away = span(u64::try_from(*away_ms).unwrap_or(0));
            let far = if *distance_max_m > 0.0 {
                format!(", {distance_max_m:.0} m at most")
            } else {
                String::new()
            };
            let words = format!("back on route: {device}, after {away} away{far}");
            (Kind::BackOnRoute, words, Some(*distance_m), None)
        }
        What::Arrived { fence, distance_m } => {
            (Kind::Arrived, format!("arrived: {device} at {fence}"), Some(*distance_m), Some(fence.clone()))
        }
        What::LeftFence { fence, distance_m } => {
            (Kind::LeftFence, format!("left: {device} left {fence}"), Some(*distance_m), Some(fence.clone()))
        }
        What::WrongWay => plain(Kind::WrongWay, format!("wrong way: {device} drives its route backwards")),
        What::RightWay => {
            plain(Kind::RightWay, format!("right way: {device} drives its route forwards again"))
        }
        What::Standing { for_ms: ms } => {
            plain(Kind::Standing, format!("standing: {device} stands on its route for {}", for_ms(*ms)))
        }
        What::MovedOn { stood_ms } => {
            plain(Kind::MovedOn, format!("moved on: {device}, after standing for {}", for_ms(*stood_ms)))
        }
        What::GpsFound { lost_ms } => plain(
            Kind::GpsFound,
            format!("position known again: {device}, after {} without", for_ms(*lost_ms)),
        ),
    };
    let ts = u64::try_from(sighting.ts_ms).unwrap_or(0);
    let age_ms = now_ms.saturating_sub(ts);
    let text = if age_ms >= OLD_MS { format!("{words} ({} ago)", span(age_ms)) } else { words };
    let id = ids::derive("ev", &[device, kind.as_str(), &sighting.ts_ms.to_string()]);
    Post {
        position: Some(sighting.position),
        distance_m: far_m.map(|far_m| (far_m * 10.0).round() / 10.0),
        fence,
        ..Post::plain(id, ts, Some(device), kind, text)
    }
}

/// How a command ended, by the device's own words.
pub(crate) fn result(
    request: &Request,
    status: &str,
    reason: Option<&str>,
    data: Value,
    now_ms: u64,
) -> Post {
    let (name, device) = (&request.name, &request.device);
    let said = reason.map(cut).filter(|words| !words.is_empty());
    let because = said.as_ref().map_or(String::new(), |words| format!(": {words}"));
    let text = match status {
        "done" => format!("{name} done by {device}{because}"),
        "failed" => format!("{name} failed at {device}{because}"),
        "rejected" => format!("{name} rejected by {device}{because}"),
        _ => format!("{name} {status} at {device}{because}"),
    };
    let id = ids::derive("res", &[&request.id, "result"]);
    about(
        request,
        Kind::CommandResult,
        id,
        text,
        now_ms,
        CommandPart { status: status.into(), reason: said, data, ..CommandPart::default() },
    )
}

/// A command whose device did not answer.
pub(crate) fn no_answer(request: &Request, now_ms: u64) -> Post {
    let (name, device) = (&request.name, &request.device);
    let delivered = request.receipts.iter().any(|told| told.starts_with("delivered "));
    let text = if delivered {
        format!("{name}: {device} took the command but did not say how it ended")
    } else {
        format!("{name} expired: {device} did not take it in time (away, or no such device)")
    };
    // The id of the result that it stands for: if that comes after all it is a message of its own.
    let id = ids::derive("res", &[&request.id, "no answer"]);
    about(
        request,
        Kind::CommandResult,
        id,
        text,
        now_ms,
        CommandPart { status: "expired".into(), ..CommandPart::default() },
    )
}

/// What became of the message that carried a command.
pub(crate) fn receipt(
    request: &Request,
    state: &str,
    client: &str,
    reason: Option<&str>,
    now_ms: u64,
) -> Post {
    let name = &request.name;
    let said = reason.map(cut).filter(|words| !words.is_empty());
    let because = said.as_ref().map_or(String::new(), |words| format!(": {words}"));
    let text = match state {
        "delivered" => format!("{name} delivered to {client}"),
        "read" => format!("{name} read by {client}"),
        "expired" => format!("{name} expired before {client} took it"),
        "dropped" => format!("{name} for {client} was dropped{because}"),
        "refused" => format!("{name} refused by {client}{because}"),
        "undeliverable" => format!("{name} is undeliverable: nobody listens at {}", request.device),
        _ => format!("{name} {state} at {client}{because}"),
    };
    let id = ids::derive("rec", &[&request.id, state, client]);
    about(
        request,
        Kind::CommandReceipt,
        id,
        text,
        now_ms,
        CommandPart { status: state.into(), reason: said, ..CommandPart::default() },
    )
}

/// A command that was understood but not sent.
pub(crate) fn not_sent(request: &Request, why: &str, now_ms: u64) -> Post {
    let text = format!("{} was not sent to {}: {}", request.name, request.device, cut(why));
    let id = ids::derive("ans", &[&request.id, "not sent"]);
    let part = CommandPart { status: "refused".into(), reason: Some(cut(why)), ..CommandPart::default() };
    about(request, Kind::CommandRefused, id, text, now_ms, part)
}

/// The answer to an attempt at a command; `key` names the chat message.
pub(crate) fn answer(source: Source, key: &str, device: Option<&str>, text: String, now_ms: u64) -> Post {
    let id = ids::derive("ans", &[key]);
    let command = Some(CommandPart { status: "refused".into(), ..CommandPart::default() });
    Post { command, request: Some(source), ..Post::plain(id, now_ms, device, Kind::CommandRefused, text) }
}

fn about(request: &Request, kind: Kind, id: String, text: String, now_ms: u64, part: CommandPart) -> Post {
    let text = match &request.source.from {
        Some(from) => format!("{text} (asked by {})", cut(from)),
        None => text,
    };
    Post {
        command: Some(CommandPart { id: Some(request.id.clone()), name: Some(request.name.clone()), ..part }),
        request: Some(request.source.clone()),
        ..Post::plain(id, now_ms, Some(&request.device), kind, text)
    }
}

/// A span of time as people say it.
pub(crate) fn span(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            id: "cmd-1".into(),
            device: "truck-7".into(),
            name: "unlock".into(),
            source: Source { seq: Some(4), id: Some("m-1".into()), from: Some("alice".into()) },
            expires_at_ms: 60_000,
            result: None,
            closed: false,
            receipts: Vec::new(),
        }
    }

    fn sighting(what: What) -> Sighting {
        Sighting { ts_ms: 1_000_000, position: LatLon::new(60.17, 24.94), what }
    }

    #[test]
    fn alerts_have_all_keys_and_words_for_people() {
        let deviated =
            alert("truck-7", &sighting(What::Deviated { distance_m: 183.46, half_width_m: 50.0 }), 1_001_000);
        let json: Value = serde_json::from_str(&deviated.to_json()).unwrap();
        let want = serde_json::json!({
            "id": deviated.id, "ts": 1_000_000, "device": "truck-7", "kind": "route_deviation",
            "text": "route deviation: truck-7 is 183 m off its route (corridor 50 m)",
            "position": {"lat": 60.17, "lon": 24.94}, "distance_m": 183.5,
        });
        assert_eq!(json, want);
        let table = [
            (
                What::Returned { distance_m: 12.0, away_ms: 250_000, distance_max_m: 310.4 },
                "back on route: truck-7, after 4 min away, 310 m at most",
            ),
            (
                What::Returned { distance_m: 12.0, away_ms: 61_000, distance_max_m: 0.0 },
                "back on route: truck-7, after 61 s away",
            ),
            (What::Arrived { fence: "Depot".into(), distance_m: 9.0 }, "arrived: truck-7 at Depot"),
        ];
        for (what, want) in table {
            assert_eq!(alert("truck-7", &sighting(what), 1_000_000).text, want);
        }
    }

    #[test]
    fn an_alert_from_an_old_fix_says_how_old_it_is() {
        let what = What::Arrived { fence: "Depot".into(), distance_m: 9.0 };
        let text = alert("truck-7", &sighting(what), 1_000_000 + 600_000).text;
        assert_eq!(text, "arrived: truck-7 at Depot (10 min ago)");
    }

    #[test]
    fn the_same_event_has_the_same_id_and_another_event_another() {
        let what = || What::Arrived { fence: "Depot".into(), distance_m: 9.0 };
        let id = alert("truck-7", &sighting(what()), 5).id;
        assert_eq!(id, alert("truck-7", &sighting(what()), 99).id);
        assert_ne!(id, alert("truck-8", &sighting(what()), 5).id);
        assert_ne!(id, alert("truck-7", &Sighting { ts_ms: 2, ..sighting(what()) }, 5).id);
        assert!(id.chars().count() <= 64);
    }

    #[test]
    fn results_and_receipts_name_the_command_the_device_and_who_asked() {
        let request = request();
        let table = [
            (result(&request, "done", None, Value::Null, 1), "unlock done by truck-7 (asked by alice)"),
            (
                result(&request, "rejected", Some("it moves at 8.3 m/s"), Value::Null, 1),
                "unlock rejected by truck-7: it moves at 8.3 m/s (asked by alice)",
            ),
            (
                result(&request, "failed", Some("jammed"), Value::Null, 1),
                "unlock failed at truck-7: jammed (asked by alice)",
            ),
            (
                receipt(&request, "delivered", "truck-7", None, 1),
                "unlock delivered to truck-7 (asked by alice)",
            ),
            (
                receipt(&request, "expired", "truck-7", None, 1),
                "unlock expired before truck-7 took it (asked by alice)",
            ),
            (
                receipt(&request, "dropped", "truck-7", Some("queue_full"), 1),
                "unlock for truck-7 was dropped: queue_full (asked by alice)",
            ),
            (
                not_sent(&request, "the broker said no", 1),
                "unlock was not sent to truck-7: the broker said no (asked by alice)",
            ),
        ];
        for (post, want) in table {
            assert_eq!(post.text, want);
            let json: Value = serde_json::from_str(&post.to_json()).unwrap();
            assert_eq!(json["request"], serde_json::json!({"seq": 4, "id": "m-1", "from": "alice"}));
            assert_eq!((&json["command"]["id"], &json["device"]), (&"cmd-1".into(), &"truck-7".into()));
        }
    }

    #[test]
    fn a_device_cannot_flood_people_with_its_reason() {
        let post = result(&request(), "failed", Some(&"x\n".repeat(10_000)), Value::Null, 1);
        assert!(post.text.len() < 500 && !post.text.contains('\n'));
    }

    #[test]
    fn kinds_are_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("chat"), None);
    }
}
