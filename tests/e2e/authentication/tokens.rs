//! Tokens as passwords.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use protocol::ProtocolVersion::V5;
use protocol::{QoS, ReasonCode};
use serde_json::{Value, json};

use super::{Files, connected, try_connect, wait_for_log};
use crate::broker_process::Broker;
use crate::raw_client::{BOTH, message};

const SECRET: &str = "a secret of at least 32 bytes, so!";

fn token(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(tag))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn broker(files: &Files, more: &str) -> Broker {
    let path = files.write("secret", &format!("{SECRET}\n"));
    Broker::start_configured(&format!("[auth_jwt]\nsecret_file = {path:?}\nleeway_s = 0\n{more}"))
}

#[test]
fn a_token_lets_its_user_in_with_the_rights_it_carries() {
    let files = Files::new();
    let broker = broker(&files, "acl_claim = \"acl\"\n");
    let claims = json!({
        "sub": "alice", "exp": now_s() + 600,
        "acl": [{"allow": true, "access": "publish", "filter": "dev/%c/#"}, {"allow": false, "filter": "#"}],
    });
    let mut client = connected(&broker, "truck", "", &token(SECRET, &claims));
    client.publish_accepted("dev/truck/telemetry", "x");
    let ack = client.publish(message("dev/other/telemetry", "x", QoS::AtLeastOnce)).expect("a PUBACK");
    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
    for version in BOTH {
        let forged = token("another secret of at least 32 bytes", &claims);
        let (_, ack) = try_connect(&broker, "x", version, "alice", &forged);
        assert_eq!(ack.reason, ReasonCode::BadUserNameOrPassword);
        let old = token(SECRET, &json!({"sub": "alice", "exp": now_s() - 1}));
        let (_, ack) = try_connect(&broker, "x", version, "alice", &old);
        assert_eq!(ack.reason, ReasonCode::NotAuthorized);
    }
}

#[test]
fn a_connection_ends_with_its_token() {
    let files = Files::new();
    let broker = broker(&files, "");
    let short = token(SECRET, &json!({"sub": "alice", "exp": now_s() + 2}));
    let mut client = connected(&broker, "short", "alice", &short);
    client.expect_disconnect(ReasonCode::NotAuthorized);
    let (_, ack) = try_connect(&broker, "short", V5, "alice", &short);
    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
    assert_eq!(ack.properties.reason_string.as_deref(), Some("the token has expired"));
}

#[test]
fn a_key_that_is_taken_away_takes_its_connections_with_it() {
    let files = Files::new();
    let broker = broker(&files, "");
    let claims = json!({"sub": "alice", "exp": now_s() + 600});
    let mut client = connected(&broker, "c", "alice", &token(SECRET, &claims));
    let other = "another secret of at least 32 bytes";
    files.write("secret", other);
    client.expect_disconnect(ReasonCode::NotAuthorized);
    wait_for_log(&broker, "the key that signed the token was removed");
    let (_, ack) = try_connect(&broker, "c", V5, "alice", &token(SECRET, &claims));
    assert_eq!(ack.reason, ReasonCode::BadUserNameOrPassword);
    connected(&broker, "c", "alice", &token(other, &claims));
}
