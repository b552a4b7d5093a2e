//! Members and inboxes over HTTP: who may ask, and what clients see of it.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use broker::{Secret, UserChange, UsersFile, config::HostPort};
use protocol::{Packet, ProtocolVersion, QoS, ReasonCode, im::Inbox};
use tempfile::TempDir;

use crate::{
    harness::{RawClient, TestBroker, connect, publish},
    http::{request, request_as},
};

fn with_http(config: &mut broker::Config) {
    config.http.enabled = true;
    config.http.listen = HostPort::new("127.0.0.1", 0);
}

/// A broker with the users alice, bob, and root in the group admin; passwords are their names twice.
fn with_users(change: impl FnOnce(&mut broker::Config)) -> TestBroker {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("users.toml");
    let mut users = UsersFile::open(&path).unwrap();
    for (name, groups) in [("alice", vec![]), ("bob", vec![]), ("root", vec!["admin".to_owned()])] {
        let password = Some(Secret::from(name.repeat(2).as_bytes()));
        users.set(name, UserChange { password, groups: Some(groups), ..UserChange::default() }).unwrap();
    }
    users.save().unwrap();
    drop(users);
    TestBroker::start_in(dir, |config| {
        with_http(config);
        config.auth.users_file = path;
        change(config);
    })
}

fn http(broker: &TestBroker) -> SocketAddr {
    broker.running().http_addr().unwrap()
}

fn basic(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{name}:{password}")))
}

fn as_user(name: &str) -> String {
    basic(name, &name.repeat(2))
}

fn member(topic: &str, user: &str) -> String {
    format!("/api/v1/conversations/{}/members/{user}", topic.replace('/', "%2F"))
}

fn client(broker: &TestBroker, id: &str, user: Option<&str>) -> RawClient {
    let mut client = RawClient::new(broker.addr(), ProtocolVersion::V5);
    let Packet::Connect(mut packet) = connect(ProtocolVersion::V5, id) else { unreachable!() };
    packet.username = user.map(Into::into);
    packet.password = user.map(|user| user.repeat(2).into_bytes().into());
    client.send(&Packet::Connect(packet));
    client.expect_connack(ReasonCode::Success);
    client
}

#[test]
fn the_operator_of_this_machine_makes_members_who_get_their_conversations() {
    let broker = TestBroker::start_with(with_http);
    let addr = http(&broker);
    let mut reader = client(&broker, "bob", None);
    reader.subscribe("$im/mine", QoS::AtMostOnce);
    reader.subscribe("$im/inbox", QoS::AtMostOnce);
    let list: Inbox = serde_json::from_slice(&reader.expect_publish().payload).unwrap();
    assert_eq!((list.conversations.len(), list.next), (0, Some(None)));

    assert_eq!(
        request(addr, "PUT", &member("im/room", "anon%3Abob"), "Content-Length: 0\r\n"),
        (204, String::new())
    );
    let changed: Inbox = serde_json::from_slice(&reader.expect_publish().payload).unwrap();
    assert_eq!((changed.conversations[0].topic.as_str(), changed.next), ("im/room", None));

    let mut sender = client(&broker, "alice", None);
    sender.send(&publish("im/room", QoS::AtLeastOnce, 1, br#"{"text":"hello"}"#));
    sender.expect_puback(1);
    let got = reader.expect_publish();
    assert_eq!((&*got.topic, &got.payload[..]), ("im/room", &br#"{"text":"hello"}"#[..]));
    let changed: Inbox = serde_json::from_slice(&reader.expect_publish().payload).unwrap();
    assert_eq!(changed.unread, 1);
    let last = changed.conversations[0].last.clone().unwrap();
    assert_eq!((last.from.as_str(), last.preview.as_deref()), ("anon:alice", Some("hello")));

    let (status, page) = request(addr, "GET", "/api/v1/inbox?user=anon%3Abob&limit=5", "");
    assert_eq!((status, serde_json::from_str::<Inbox>(&page).unwrap().unread), (200, 1));
    assert_eq!(request(addr, "DELETE", &member("im/room", "anon%3Abob"), "").0, 204);
    let left: Inbox = serde_json::from_slice(&reader.expect_publish().payload).unwrap();
    assert!(left.unread == 0 && left.conversations[0].left);
    sender.send(&publish("im/room", QoS::AtLeastOnce, 2, b"alone"));
    sender.expect_puback(2);
    reader.ping();
}

#[test]
fn what_cannot_be_done_is_a_problem_that_says_why() {
    let broker = TestBroker::start_with(|config| {
        with_http(config);
        config.im.members_max = 1;
    });
    let addr = http(&broker);
    for (method, path, status, detail) in [
        ("PUT", member("elsewhere", "bob"), 404, "no [[conversation]] rule"),
        ("PUT", member("im/%23", "bob"), 400, "wildcard"),
        ("PUT", member("im/room", "bob"), 204, ""),
        ("PUT", member("im/room", "bob"), 204, ""),
        ("PUT", member("im/room", "carol"), 507, "has 1 members, its limit"),
        ("DELETE", member("im/room", "nobody"), 204, ""),
        ("GET", "/api/v1/inbox".to_owned(), 400, "?user=NAME"),
        ("GET", "/api/v1/inbox?user=bob&limit=0".to_owned(), 400, "1 to 200"),
        ("GET", "/api/v1/inbox?user=bob&cursor=x".to_owned(), 400, "cursor"),
        ("GET", "/api/v1/inbox?user=bob&page=2".to_owned(), 400, "known are cursor, limit, user"),
        ("POST", member("im/room", "bob"), 405, "POST is not served"),
        ("DELETE", "/healthz".to_owned(), 405, "Allow names what is"),
        ("GET", "/nowhere".to_owned(), 404, "nothing is served"),
        ("GET", "/api/v1/nothing".to_owned(), 404, "nothing is served"),
    ] {
        let (got, body) = request(addr, method, &path, "");
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(body.contains(detail), "{method} {path}: {body}");
        if status >= 400 {
            let problem: serde_json::Value = serde_json::from_str(&body).expect("a problem document");
            assert_eq!(problem["status"], status, "{body}");
        }
    }
    // A page that a browser here has open is not the operator.
    for (host, headers) in [("localhost", "Origin: http://evil.example\r\n"), ("evil.example", "")] {
        assert_eq!(request_as(addr, host, "PUT", &member("im/room", "eve"), headers).0, 403);
    }
}

#[test]
fn users_change_their_own_membership_and_admins_that_of_others() {
    let broker = with_users(|_| {});
    let addr = http(&broker);
    for (method, user, who, status) in [
        ("PUT", "bob", String::new(), 401),
        ("PUT", "bob", basic("root", "wrong"), 401),
        ("PUT", "bob", "Authorization: Digest x\r\n".to_owned(), 401),
        ("PUT", "bob", as_user("alice"), 403),
        ("PUT", "bob", as_user("root"), 204),
        ("DELETE", "bob", as_user("alice"), 403),
        ("DELETE", "bob", as_user("bob"), 204),
        ("PUT", "alice", as_user("alice"), 204),
    ] {
        let (got, body) = request(addr, method, &member("im/room", user), &who);
        assert_eq!(got, status, "{method} {user}: {body}");
    }
    for (query, who, status) in [
        ("", "alice", 200),
        ("?user=alice", "alice", 200),
        ("?user=alice", "bob", 403),
        ("?user=alice", "root", 200),
    ] {
        let (got, body) = request(addr, "GET", &format!("/api/v1/inbox{query}"), &as_user(who));
        assert_eq!(got, status, "{query} {who}: {body}");
        assert!(status != 200 || body.contains("im/room"), "{body}");
    }
    assert_eq!(request(addr, "GET", "/api/v1/inbox", "").0, 401);
}

#[test]
fn a_token_says_who_asks_too() {
    let broker = with_users(|config| {
        let secret = config.store.data_dir.with_file_name("secret");
        std::fs::write(&secret, "a secret of thirty-two bytes ....").unwrap();
        config.auth_jwt.secret_file = secret;
    });
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of thirty-two bytes ....");
    let claims = serde_json::json!({"sub": "carol", "exp": 4_000_000_000u64, "groups": ["admin"]});
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let put = |token: &str| {
        request(
            http(&broker),
            "PUT",
            &member("im/room", "bob"),
            &format!("Authorization: Bearer {token}\r\n"),
        )
    };
    assert_eq!(put(&token), (204, String::new()));
    let (status, body) = put(&format!("{}x", &token[..token.len() - 1]));
    assert!(status == 401 && !body.contains(&token[..20]), "{body}");
}

#[test]
fn who_guesses_over_http_is_banned_by_name_for_mqtt_too() {
    let broker = with_users(|config| {
        config.abuse.guesses_per_minute = 2;
        config.abuse.slow_first_ms = 1;
        config.abuse.slow_max_ms = 2;
        config.abuse.strikes_max = 2;
    });
    let addr = http(&broker);
    let guess = |name: &str| request(addr, "GET", "/api/v1/inbox", &basic(name, "wrong")).0;
    let answers: Vec<_> = (0..12).map(|_| guess("root")).collect();
    assert_eq!((answers[0], *answers.last().unwrap()), (401, 429), "{answers:?}");
    assert_eq!(request(addr, "GET", "/api/v1/inbox", &as_user("root")).0, 429);
    assert_eq!(request(addr, "GET", "/api/v1/inbox", &as_user("bob")).0, 200);
    let mut client = RawClient::new(broker.addr(), ProtocolVersion::V5);
    let Packet::Connect(mut packet) = connect(ProtocolVersion::V5, "root") else { unreachable!() };
    (packet.username, packet.password) = (Some("root".into()), Some(b"rootroot"[..].into()));
    client.send(&Packet::Connect(packet));
    client.expect_connack(ReasonCode::Banned);
}

#[test]
fn members_survive_the_end_of_the_broker() {
    let broker = TestBroker::start_with(with_http);
    assert_eq!(request(http(&broker), "PUT", &member("im/room", "anon%3Abob"), "").0, 204);
    let dir = broker.stop();
    let broker = TestBroker::start_in(dir, with_http);
    let (_, page) = request(http(&broker), "GET", "/api/v1/inbox?user=anon%3Abob", "");
    assert!(page.contains("im/room"), "{page}");
}
