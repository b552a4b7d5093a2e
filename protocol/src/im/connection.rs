//! What is said about one client's connection: its presence, its heartbeat, and the probe of a silent path
//! (docs/protocol.md sections 5 and 7).

use serde::{Deserialize, Serialize};

/// What the topics of [`presence_topic`] start with.
pub const PRESENCE_PREFIX: &str = "$im/presence/";
/// Topic on which a client declares its heartbeat: a [`KeepaliveRequest`].
pub const KEEPALIVE_TOPIC: &str = "$im/keepalive";
/// Topic on which a client asks for a probe: a [`ProbeRequest`].
pub const PROBE_TOPIC: &str = "$im/probe";
/// What the topics of [`probe_topic`] start with.
pub const PROBE_PREFIX: &str = "$im/probe/";
/// Longest name of a network path ([`IM_NET`](super::IM_NET)), in bytes.
pub const NET_BYTES_MAX: usize = 64;
/// Longest silence of a probe, seconds.
pub const PROBE_AFTER_S_MAX: u32 = 7_200;
/// Longest id of a probe.
pub const PROBE_ID_BYTES_MAX: usize = 64;

/// Whether a client is connected: a payload on [`presence_topic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether it is.
    pub online: bool,
    /// Number of its connection, greater with each: what has a lower one than was seen is old.
    pub epoch: u64,
    /// Since when it is so, milliseconds since the Unix epoch.
    pub since: u64,
    /// When its last packet came, milliseconds since the Unix epoch; while it is online when it connected.
    pub last_seen: u64,
    /// Its user.
    pub user: String,
    /// The heartbeat interval in force on the connection, seconds; 0 = none.
    pub keepalive_s: u16,
    /// Why it is so: `connected`, or how the connection ended.
    pub reason: String,
}

/// The heartbeat that a client keeps from now on: a payload on [`KEEPALIVE_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveRequest {
    /// Its interval, seconds.
    pub interval_s: u32,
    /// The network path, if it is another one than CONNECT said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
}

/// Asks for a message after a silence: a payload on [`PROBE_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Names the answer's topic: 1 to 64 of `A-Za-z0-9_-`.
    pub id: String,
    /// Length of the silence, 1 to 7,200 seconds.
    pub after_s: u32,
}

/// The end of a silence: a payload on [`probe_topic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The request's id.
    pub id: String,
    /// When, milliseconds since the Unix epoch.
    pub at: u64,
    /// Whether there was no silence: packets were exchanged meanwhile.
    pub spoiled: bool,
}

impl KeepaliveRequest {
    /// Parses a payload.
    ///
    /// # Errors
    /// It is not this JSON, or the name of the network has not 1 to 64 bytes; the text says what is wrong.
    pub fn parse(payload: &[u8]) -> Result<Self, String> {
        let request: Self = parse(payload, r#"{"interval_s": seconds, "net": name}"#)?;
        if let Some(net) = &request.net {
            check_net(net)?;
        }
        Ok(request)
    }
}

impl ProbeRequest {
    /// Parses a payload.
    ///
    /// # Errors
    /// It is not this JSON, or a value is out of its bounds; the text says what is wrong.
    pub fn parse(payload: &[u8]) -> Result<Self, String> {
        let request: Self = parse(payload, r#"{"id": text, "after_s": seconds}"#)?;
        let Self { id, after_s } = &request;
        if !(1..=PROBE_AFTER_S_MAX).contains(after_s) {
            return Err(format!("after_s is {after_s}, 1 to {PROBE_AFTER_S_MAX} are allowed"));
        }
        let is_plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !(1..=PROBE_ID_BYTES_MAX).contains(&id.len()) || !is_plain {
            return Err(format!("id {id:?} is not 1 to {PROBE_ID_BYTES_MAX} of A-Z, a-z, 0-9, _ and -"));
        }
        Ok(request)
    }
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8], shape: &str) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("the payload is not {shape}: {error}"))
}

/// Checks the name of a network path.
///
/// # Errors
/// It has not 1 to 64 bytes; the text says how many.
pub fn check_net(net: &str) -> Result<(), String> {
    match net.len() {
        1..=NET_BYTES_MAX => Ok(()),
        bytes => Err(format!("the name of the network has {bytes} bytes, 1 to {NET_BYTES_MAX} are allowed")),
    }
}

/// Returns `$im/probe/{id}`.
pub fn probe_topic(id: &str) -> String {
    format!("{PROBE_PREFIX}{id}")
}

/// Returns `$im/presence/{client}` with `%`, `/`, `+` and `#` of the client id percent-encoded.
pub fn presence_topic(client_id: &str) -> String {
    let mut topic = String::with_capacity(PRESENCE_PREFIX.len() + client_id.len());
    topic.push_str(PRESENCE_PREFIX);
    for character in client_id.chars() {
        match character {
            '%' => topic.push_str("%25"),
            '/' => topic.push_str("%2F"),
            '+' => topic.push_str("%2B"),
            '#' => topic.push_str("%23"),
            other => topic.push(other),
        }
    }
    topic
}

/// Returns the client id of a presence topic, `None` when it is none or is not encoded as
/// [`presence_topic`] does (hexadecimal digits of either case are read).
pub fn presence_client(topic: &str) -> Option<String> {
    let mut encoded = topic.strip_prefix(PRESENCE_PREFIX)?;
    let mut client_id = String::with_capacity(encoded.len());
    while let Some(at) = encoded.find(['%', '/', '+', '#']) {
        client_id.push_str(&encoded[..at]);
        client_id.push(match encoded.get(at..at + 3)? {
            "%25" => '%',
            "%2F" | "%2f" => '/',
            "%2B" | "%2b" => '+',
            "%23" => '#',
            _ => return None,
        });
        encoded = &encoded[at + 3..];
    }
    client_id.push_str(encoded);
    Some(client_id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn presence_topics_encode_what_a_level_may_not_contain() {
        for (client, topic) in [
            ("truck-7", "$im/presence/truck-7"),
            ("a/b+c#d%e", "$im/presence/a%2Fb%2Bc%23d%25e"),
            ("%2F", "$im/presence/%252F"),
            ("车/7", "$im/presence/车%2F7"),
            ("", "$im/presence/"),
        ] {
            assert_eq!(presence_topic(client), topic);
            assert_eq!(presence_client(topic).as_deref(), Some(client));
        }
        for bad in ["$im/presence/a/b", "$im/presence/%", "$im/presence/%4", "$im/presence/%4车", "x"] {
            assert_eq!(presence_client(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_presence_has_the_contracts_names_and_always_all_of_them() {
        let written = json!({"online": false, "epoch": 7, "since": 2, "last_seen": 1, "user": "u",
            "keepalive_s": 60, "reason": "lost"});
        let presence: Presence = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(presence).unwrap(), written);
    }

    #[test]
    fn a_heartbeat_is_declared_in_whole_seconds_with_or_without_a_network() {
        let parse = |text: &str| KeepaliveRequest::parse(text.as_bytes());
        assert_eq!(parse(r#"{"interval_s":240}"#), Ok(KeepaliveRequest { interval_s: 240, net: None }));
        let net = Some("cmcc-lte".to_owned());
        let with_net = r#"{"net":"cmcc-lte","interval_s":1,"new":true}"#;
        assert_eq!(parse(with_net), Ok(KeepaliveRequest { interval_s: 1, net }));
        for bad in ["", "{}", "240", r#"{"interval_s":-1}"#, r#"{"interval_s":1.5}"#, r#"{"interval_s":"1"}"#]
        {
            assert!(parse(bad).unwrap_err().contains("the payload is not"), "{bad}");
        }
        let long = format!(r#"{{"interval_s":1,"net":"{}"}}"#, "n".repeat(65));
        assert!(parse(&long).unwrap_err().contains("65 bytes"));
        assert!(parse(r#"{"interval_s":1,"net":""}"#).is_err());
    }

    #[test]
    fn a_probe_has_a_plain_id_and_a_bounded_silence() {
        let parse = |id: &str, after_s: i64| {
            ProbeRequest::parse(json!({"id": id, "after_s": after_s}).to_string().as_bytes())
        };
        assert_eq!(parse("aZ_-9", 7_200), Ok(ProbeRequest { id: "aZ_-9".into(), after_s: 7_200 }));
        for (id, after_s) in [("a", 0), ("a", 7_201), ("a", -1), ("", 1), ("a/b", 1), ("+", 1), ("é", 1)] {
            assert!(parse(id, after_s).is_err(), "{id} {after_s}");
        }
        assert!(parse(&"x".repeat(64), 1).is_ok() && parse(&"x".repeat(65), 1).is_err());
        assert_eq!(probe_topic("a"), "$im/probe/a");
    }
}
