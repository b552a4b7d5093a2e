//! Enhanced authentication by SCRAM-SHA-256, with a client of the test's own (RFC 5802).

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::ProtocolVersion::V5;
use protocol::{Auth, Bytes, ConnAck, Connect, Packet, QoS, ReasonCode};

use super::{Files, connected};
use crate::broker_process::Broker;
use crate::raw_client::{Next, RawClient, connect_packet, message};

const METHOD: &str = "SCRAM-SHA-256";
const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn client_first(user: &str) -> String {
    format!("n,,n={user},r={NONCE}")
}

/// Answers a challenge; also says what the broker's own proof must be.
fn client_final(user: &str, password: &str, server_first: &str) -> (String, String) {
    let field = |name: &str| {
        server_first.split(',').find_map(|part| part.strip_prefix(name)).expect("a field of the challenge")
    };
    let (nonce, salt, iterations) = (field("r="), field("s="), field("i="));
    assert!(nonce.starts_with(NONCE) && nonce.len() > NONCE.len() + 16, "the nonce goes on: {nonce}");
    let (salt, rounds) =
        (BASE64.decode(salt).expect("base64"), iterations.parse::<NonZeroU32>().expect("a number"));
    assert!(rounds.get() >= 4096, "RFC 7677 section 4");
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut salted);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let without_proof = format!("c=biws,r={nonce}");
    let auth_message = format!("n={user},r={NONCE},{server_first},{without_proof}");
    let signature = sign(stored_key.as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
    let server_signature = sign(&sign(&salted, b"Server Key"), auth_message.as_bytes());
    (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(server_signature)))
}

fn auth(reason: ReasonCode, method: &str, data: Option<&str>) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        authentication_method: Some(method.into()),
        authentication_data: data.map(|data| Bytes::copy_from_slice(data.as_bytes())),
        reason_string: None,
        user_properties: Vec::new(),
    }))
}

fn scram_connect(client_id: &str, method: &str, data: Option<&str>) -> Connect {
    let mut connect = connect_packet(client_id, V5);
    connect.properties.authentication_method = Some(method.into());
    connect.properties.authentication_data = data.map(|data| Bytes::copy_from_slice(data.as_bytes()));
    connect
}

/// Waits for AUTH with this reason and returns its data.
#[track_caller]
fn receive_auth(client: &mut RawClient, reason: ReasonCode) -> String {
    let packet = client.receive();
    let Packet::Auth(auth) = packet else { panic!("expected AUTH, got {packet:?}") };
    // [MQTT-4.12.0-5] the method is the one of CONNECT.
    assert_eq!((auth.reason, auth.authentication_method.as_deref()), (reason, Some(METHOD)));
    // [MQTT-3.15.2-2] [MQTT-3.15.2-3] nothing else is in it that could make it too large for a client.
    assert!(auth.reason_string.is_none() && auth.user_properties.is_empty(), "{auth:?}");
    String::from_utf8(auth.authentication_data.unwrap_or_default().to_vec()).expect("text")
}

#[track_caller]
fn receive_connack(client: &mut RawClient, reason: ReasonCode) -> ConnAck {
    let packet = client.receive();
    let Packet::ConnAck(ack) = packet else { panic!("expected CONNACK, got {packet:?}") };
    assert_eq!(ack.reason, reason, "{ack:?}");
    *ack
}

/// Goes up to the challenge.
pub(super) fn challenged(broker: &Broker, client_id: &str, user: &str) -> (RawClient, String) {
    let mut client = RawClient::open(broker.address(), V5);
    client.send(&Packet::Connect(Box::new(scram_connect(client_id, METHOD, Some(&client_first(user))))));
    let challenge = receive_auth(&mut client, ReasonCode::ContinueAuthentication);
    (client, challenge)
}

pub(super) fn scram(broker: &Broker, client_id: &str, user: &str, password: &str) -> RawClient {
    let (mut client, challenge) = challenged(broker, client_id, user);
    let (answer, proof) = client_final(user, password, &challenge);
    client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
    let ack = receive_connack(&mut client, ReasonCode::Success);
    // [MQTT-4.12.0-5] CONNACK names the method; its data prove that the broker knows the password's secret too.
    assert_eq!(ack.properties.authentication_method.as_deref(), Some(METHOD));
    assert_eq!(ack.properties.authentication_data.as_deref(), Some(proof.as_bytes()));
    client
}

fn files() -> Files {
    Files::with_users(&[("alice", "pencil"), ("bob", "eraser")])
}

#[test]
fn a_client_proves_its_password_without_sending_it() {
    let files = files();
    let broker = files.broker("");
    // [MQTT-4.12.0-2] what the broker asks on the way has 0x18.
    let mut client = scram(&broker, "c", "alice", "pencil");
    client.publish_accepted("a", "x");
    // It is the same user as by password: a session that the one made, the other gets.
    let mut again = connected(&broker, "c", "alice", "pencil");
    client.expect_disconnect(ReasonCode::SessionTakenOver);
    again.publish_accepted("a", "x");
}

#[test]
fn the_first_data_may_come_after_connect() {
    let files = files();
    let broker = files.broker("");
    let mut client = RawClient::open(broker.address(), V5);
    client.send(&Packet::Connect(Box::new(scram_connect("c", METHOD, None))));
    assert_eq!(receive_auth(&mut client, ReasonCode::ContinueAuthentication), "");
    client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&client_first("alice"))));
    let challenge = receive_auth(&mut client, ReasonCode::ContinueAuthentication);
    let (answer, _) = client_final("alice", "pencil", &challenge);
    client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
    receive_connack(&mut client, ReasonCode::Success);
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused_alike() {
    let files = files();
    let broker = files.broker("");
    // [MQTT-4.12.0-4] a failed authentication ends with a CONNACK and the connection.
    for user in ["alice", "nobody"] {
        let (mut client, challenge) = challenged(&broker, "c", user);
        let (answer, _) = client_final(user, "wrong", &challenge);
        client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
        receive_connack(&mut client, ReasonCode::BadUserNameOrPassword);
        client.expect_closed();
    }
    let salt = |challenge: String| challenge.split(",s=").nth(1).map(str::to_owned);
    let (_one, first) = challenged(&broker, "c", "nobody");
    let (_two, second) = challenged(&broker, "d", "nobody");
    assert_eq!(salt(first), salt(second), "a user that does not exist has a salt that stays");
}

#[test]
fn what_breaks_the_exchange_is_refused_with_its_code() {
    let files = files();
    let broker = files.broker("");
    // [MQTT-4.12.0-1] a method that is not served.
    for method in ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "x"] {
        let connect = scram_connect("c", method, Some("x"));
        let (mut client, ack) = RawClient::connect_with(broker.address(), connect);
        assert_eq!(ack.reason, ReasonCode::BadAuthenticationMethod);
        client.expect_closed();
    }
    for (packet, reason) in [
        // [MQTT-3.1.2-30] nothing but AUTH and DISCONNECT before CONNACK.
        (Packet::PingReq, ReasonCode::ProtocolError),
        (Packet::Publish(message("a", "x", QoS::AtMostOnce)), ReasonCode::ProtocolError),
        (auth(ReasonCode::ReAuthenticate, METHOD, Some("x")), ReasonCode::ProtocolError),
        // [MQTT-4.12.0-5] the same method throughout.
        (auth(ReasonCode::ContinueAuthentication, "PLAIN", Some("x")), ReasonCode::BadAuthenticationMethod),
        (auth(ReasonCode::ContinueAuthentication, METHOD, Some("x")), ReasonCode::NotAuthorized),
        (auth(ReasonCode::ContinueAuthentication, METHOD, None), ReasonCode::NotAuthorized),
    ] {
        let (mut client, _) = challenged(&broker, "c", "alice");
        client.send(&packet);
        receive_connack(&mut client, reason);
        client.expect_closed();
    }
    let (mut client, _) = challenged(&broker, "c", "alice");
    client.send(&Packet::Disconnect(protocol::Disconnect {
        reason: ReasonCode::Success,
        properties: Default::default(),
    }));
    client.expect_closed();
    let (mut client, challenge) = challenged(&broker, "c", "alice");
    let (answer, _) = client_final("alice", "pencil", &challenge.replace(NONCE, &format!("{NONCE}x")));
    client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
    receive_connack(&mut client, ReasonCode::NotAuthorized);
}

#[test]
fn a_challenge_larger_than_the_client_takes_is_not_sent() {
    let files = files();
    let broker = files.broker("");
    let mut connect = scram_connect("c", METHOD, Some(&client_first("alice")));
    // [MQTT-3.1.2-24] nor is a refusal that says so too long: it comes without its reason string.
    connect.properties.packet_bytes_max = NonZeroU32::new(40);
    let mut client = RawClient::open(broker.address(), V5);
    client.send(&Packet::Connect(Box::new(connect)));
    let ack = receive_connack(&mut client, ReasonCode::PacketTooLarge);
    assert_eq!(ack.properties.reason_string, None);
    client.expect_closed();
}

/// Begins again on an open connection; returns the challenge.
fn begin_again(client: &mut RawClient, user: &str) -> String {
    client.send(&auth(ReasonCode::ReAuthenticate, METHOD, Some(&client_first(user))));
    receive_auth(client, ReasonCode::ContinueAuthentication)
}

#[test]
fn an_open_connection_authenticates_again_and_goes_on_meanwhile() {
    let files = files();
    let broker = files.broker("");
    let mut client = scram(&broker, "c", "alice", "pencil");
    for _ in 0..2 {
        // [MQTT-4.12.1-1] by the method of CONNECT.
        let challenge = begin_again(&mut client, "alice");
        client.publish_accepted("a", "meanwhile");
        let (answer, proof) = client_final("alice", "pencil", &challenge);
        client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
        assert_eq!(receive_auth(&mut client, ReasonCode::Success), proof);
    }
    client.publish_accepted("a", "after");
}

#[test]
fn a_failed_authentication_ends_an_open_connection() {
    let files = files();
    let broker = files.broker("");
    // [MQTT-4.12.1-2] a wrong password, or another user.
    for (user, password) in [("alice", "wrong"), ("bob", "eraser")] {
        let mut client = scram(&broker, "c", "alice", "pencil");
        let challenge = begin_again(&mut client, user);
        let (answer, _) = client_final(user, password, &challenge);
        client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
        client.expect_disconnect(ReasonCode::NotAuthorized);
    }
    for packets in [
        vec![auth(ReasonCode::ContinueAuthentication, METHOD, Some("x"))],
        vec![auth(ReasonCode::ReAuthenticate, "PLAIN", Some("x"))],
    ] {
        let mut client = scram(&broker, "c", "alice", "pencil");
        packets.iter().for_each(|packet| client.send(packet));
        client.expect_disconnect(ReasonCode::ProtocolError);
    }
    let mut client = scram(&broker, "c", "alice", "pencil");
    begin_again(&mut client, "alice");
    client.send(&auth(ReasonCode::ReAuthenticate, METHOD, Some(&client_first("alice"))));
    client.expect_disconnect(ReasonCode::ProtocolError);
    // A connection without a method has nothing to authenticate again.
    let mut client = connected(&broker, "c", "alice", "pencil");
    client.send(&auth(ReasonCode::ReAuthenticate, METHOD, Some(&client_first("alice"))));
    client.expect_disconnect(ReasonCode::ProtocolError);
}

#[test]
fn authentication_again_is_a_sign_of_life() {
    let files = files();
    let broker = files.broker("");
    let mut connect = scram_connect("c", METHOD, Some(&client_first("alice")));
    connect.keep_alive_s = 1;
    let mut client = RawClient::open(broker.address(), V5);
    client.send(&Packet::Connect(Box::new(connect)));
    let challenge = receive_auth(&mut client, ReasonCode::ContinueAuthentication);
    let (answer, _) = client_final("alice", "pencil", &challenge);
    client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
    receive_connack(&mut client, ReasonCode::Success);
    let start = Instant::now();
    // Twice as long as the broker waits for a client that says nothing.
    while start.elapsed() < Duration::from_secs(3) {
        let challenge = begin_again(&mut client, "alice");
        let (answer, _) = client_final("alice", "pencil", &challenge);
        client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
        receive_auth(&mut client, ReasonCode::Success);
        assert!(matches!(client.next_within(Duration::from_millis(400)), Next::Nothing));
    }
    client.expect_disconnect(ReasonCode::KeepAliveTimeout);
}

#[test]
fn a_packet_id_of_an_open_connection_survives_authentication() {
    let files = files();
    let broker = files.broker("");
    let mut client = scram(&broker, "c", "alice", "pencil");
    let mut publish = message("a", "x", QoS::ExactlyOnce);
    publish.packet_id = NonZeroU16::new(7);
    client.send(&Packet::Publish(publish));
    client.expect_pubrec(crate::raw_client::id(7));
    let challenge = begin_again(&mut client, "alice");
    let (answer, _) = client_final("alice", "pencil", &challenge);
    client.send(&auth(ReasonCode::ContinueAuthentication, METHOD, Some(&answer)));
    receive_auth(&mut client, ReasonCode::Success);
    client.pubrel(crate::raw_client::id(7));
    client.expect_pubcomp(crate::raw_client::id(7));
}
