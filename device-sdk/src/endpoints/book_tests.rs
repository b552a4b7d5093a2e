//! The order of the ways, what a broker's references do to it, and what is remembered.

use super::super::memory::CHOICE_AGE_MS_MAX;
use super::*;

const NOW_MS: u64 = 1_000;
const UNIX_MS: u64 = 1_800_000_000_000;

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn book(configured: &[&str]) -> Book {
    let configured = configured.iter().map(|text| endpoint(text)).collect();
    Book::new(configured, Ladder::default(), Memory::default(), "lte".to_owned())
}

/// The order as `step url` lines.
fn order(book: &Book) -> Vec<String> {
    order_at(book, NOW_MS)
}

fn order_at(book: &Book, now_ms: u64) -> Vec<String> {
    let ways = book.ways(now_ms, UNIX_MS);
    ways.iter().map(|way| format!("{} {}", way.step, way.endpoint)).collect()
}

const HOME: [&str; 3] = ["mqtts://a:8883", "mqtts://a:443?alpn=mqtt", "wss://a:443/mqtt"];

#[test]
fn ladders_of_several_addresses_are_climbed_down_together() {
    assert_eq!(
        order(&book(&["mqtts://a", "mqtts://b", "wss://c:9/x"])),
        [
            "0 mqtts://a:8883",
            "0 mqtts://b:8883",
            "0 wss://c:9/x",
            "1 mqtts://a:443?alpn=mqtt",
            "1 mqtts://b:443?alpn=mqtt",
            "2 wss://a:443/mqtt",
            "2 wss://b:443/mqtt",
        ]
    );
}

#[test]
fn what_worked_last_on_a_network_comes_first_there_and_not_elsewhere() {
    let mut book = book(&["mqtts://a"]);
    assert!(book.accepted(&endpoint(HOME[2]), UNIX_MS));
    assert_eq!(order(&book), ["0 wss://a:443/mqtt", "1 mqtts://a:8883", "2 mqtts://a:443?alpn=mqtt"]);
    assert!(book.set_network("depot"));
    assert_eq!(order(&book)[0], "0 mqtts://a:8883");
    assert!(book.accepted(&endpoint(HOME[0]), UNIX_MS));
    assert!(book.set_network("lte") && !book.set_network("lte"));
    assert_eq!(order(&book)[0], "0 wss://a:443/mqtt");
    // After a week the better ways get their chance again.
    let later = book.ways(NOW_MS, UNIX_MS + CHOICE_AGE_MS_MAX + 1);
    assert_eq!(later[0].endpoint, endpoint(HOME[0]));
    // With other addresses the choice means nothing.
    let memory = book.memory().clone();
    let other = Book::new(vec![endpoint("mqtts://z")], Ladder::default(), memory, "lte".to_owned());
    assert_eq!(order(&other)[0], "0 mqtts://z:8883");
}

#[test]
fn a_way_that_leads_nowhere_stands_behind_until_a_connection_is_accepted() {
    let mut book = book(&["mqtts://a"]);
    // A middlebox takes the connection and says nothing.
    book.unanswered(&endpoint(HOME[0]));
    assert_eq!(order(&book), ["0 mqtts://a:443?alpn=mqtt", "1 wss://a:443/mqtt", "2 mqtts://a:8883"]);
    book.unanswered(&endpoint(HOME[1]));
    assert_eq!(order(&book)[0], "0 wss://a:443/mqtt");
    book.unanswered(&endpoint(HOME[2]));
    assert_eq!(order(&book)[0], "0 mqtts://a:8883");
    book.accepted(&endpoint(HOME[0]), UNIX_MS);
    assert_eq!(order(&book)[1], "1 mqtts://a:443?alpn=mqtt");
}

#[test]
fn a_broker_that_refuses_makes_way_for_another_address_not_for_another_step() {
    let mut book = book(&["mqtts://a", "mqtts://b"]);
    book.refused(&endpoint("mqtts://a:8883"));
    let order = order(&book);
    assert_eq!(order[0], "0 mqtts://b:8883");
    assert!(order.iter().rev().take(3).all(|line| line.contains("://a:")), "{order:?}");
}

#[test]
fn use_another_server_holds_for_a_while_and_the_way_home_stays_open() {
    let mut book = book(&["mqtts://a"]);
    let from = endpoint(HOME[0]);
    let (referral, is_news) = book.refer(&from, ReasonCode::UseAnotherServer, Some("b"), NOW_MS);
    assert_eq!((referral, is_news), (Referral::Followed(endpoint("mqtts://b:8883")), false));
    assert_eq!(order(&book)[..2], ["0 mqtts://b:8883", "1 mqtts://a:8883"]);
    assert_eq!(order(&book).len(), 4);
    // It works, and is not remembered as the network's choice.
    assert!(!book.accepted(&endpoint("mqtts://b:8883"), UNIX_MS));
    assert_eq!(order_at(&book, NOW_MS + TEMPORARY_MS - 1)[0], "0 mqtts://b:8883");
    assert_eq!(
        order_at(&book, NOW_MS + TEMPORARY_MS),
        HOME.iter().enumerate().map(|(i, way)| format!("{i} {way}")).collect::<Vec<_>>()
    );
    // It does not answer, the old one does.
    book.accepted(&from, UNIX_MS);
    assert_eq!(order(&book)[0], "0 mqtts://a:8883");
}

#[test]
fn a_broker_that_moved_is_remembered_until_the_old_one_answers() {
    let mut book = book(&["mqtts://a"]);
    let from = endpoint(HOME[0]);
    let (referral, is_news) = book.refer(&from, ReasonCode::ServerMoved, Some("c:1234"), NOW_MS);
    assert_eq!((referral, is_news), (Referral::Followed(endpoint("mqtts://c:1234")), true));
    assert!(!book.accepted(&endpoint("mqtts://c:1234"), UNIX_MS));
    let again =
        |memory: Memory| Book::new(vec![endpoint("mqtts://a")], Ladder::default(), memory, "lte".to_owned());
    let mut restarted = again(book.memory().clone());
    assert_eq!(order_at(&restarted, u64::MAX)[..2], ["0 mqtts://c:1234", "1 mqtts://a:8883"]);
    // The new one is gone, the old one takes us.
    assert!(restarted.accepted(&from, UNIX_MS));
    assert_eq!(order(&restarted)[0], "0 mqtts://a:8883");
    assert_eq!(order(&again(restarted.memory().clone()))[0], "0 mqtts://a:8883");
}

#[test]
fn references_in_a_circle_end_and_may_be_followed_again_later() {
    let mut book = book(&["mqtt://a:1"]);
    let (a, b) = (endpoint("mqtt://a:1"), endpoint("mqtt://b:1"));
    for _ in 0..3 {
        for hop in 0..REFERRALS_MAX {
            let (from, to) = if hop % 2 == 0 { (&a, "b:1") } else { (&b, "a:1") };
            let (referral, _) = book.refer(from, ReasonCode::ServerMoved, Some(to), NOW_MS);
            assert!(matches!(referral, Referral::Followed(_)), "{referral:?}");
            // An acceptance that is taken back at once ends no chain.
            book.accepted(&endpoint(&format!("mqtt://{to}")), UNIX_MS);
            book.ended(SETTLED_MS - 1);
        }
        let (referral, _) = book.refer(&a, ReasonCode::ServerMoved, Some("b:1"), NOW_MS);
        assert_eq!(referral, Referral::NotFollowed("after 4 others in a row".to_owned()));
        assert_eq!(order(&book), ["0 mqtt://a:1"]);
    }
    // A connection that lasts begins the count anew.
    for _ in 0..10 {
        let (referral, _) = book.refer(&a, ReasonCode::UseAnotherServer, Some("b:1"), NOW_MS);
        assert!(matches!(referral, Referral::Followed(_)));
        book.ended(SETTLED_MS);
    }
}

#[test]
fn references_are_read_as_the_standard_and_as_urls_write_them() {
    let secure = "mqtts://a:8883";
    for (from, reference, expected) in [
        (secure, "b", Ok("mqtts://b:8883")),
        (secure, "b.example:99", Ok("mqtts://b.example:99")),
        (secure, "[fe80::1]:1883 10.0.0.1", Ok("mqtts://[fe80::1]:1883")),
        (secure, "a/b  10.0.0.1:7", Ok("mqtts://10.0.0.1:7")),
        (secure, "wss://b/x", Ok("wss://b:443/x")),
        ("wss://a:443/x", "b:444", Ok("wss://b:444/x")),
        ("mqtts://a:443?alpn=mqtt", "b", Ok("mqtts://b:443?alpn=mqtt")),
        ("mqtt://a:1883", "mqtts://b", Ok("mqtts://b:8883")),
        ("mqtt://a:1883", "b", Ok("mqtt://b:1883")),
        (secure, "mqtt://b:1883", Err("its reference \"mqtt://b:1883\" leads out of TLS")),
        (secure, "", Err("its reference \"\" names no address")),
        (secure, "http://b a/b", Err("its reference \"http://b a/b\" names no address")),
    ] {
        let mut book = book(&[from]);
        let (referral, _) = book.refer(&endpoint(from), ReasonCode::UseAnotherServer, Some(reference), 0);
        let expected = match expected {
            Ok(target) => Referral::Followed(endpoint(target)),
            Err(why) => Referral::NotFollowed(why.to_owned()),
        };
        assert_eq!(referral, expected, "{from} {reference}");
    }
}

#[test]
fn use_another_server_without_a_name_turns_to_the_next_configured_host() {
    let mut book = book(&["mqtts://a:1", "mqtts://b:1"]);
    let (referral, _) = book.refer(&endpoint("mqtts://a:1"), ReasonCode::UseAnotherServer, None, NOW_MS);
    assert!(matches!(referral, Referral::NotFollowed(_)));
    assert_eq!(order(&book), ["0 mqtts://b:1", "1 mqtts://a:1"]);
}
