//! Tests of the rules at the door, on a clock of their own.

use std::net::IpAddr;

use engine::Now;
use protocol::ReasonCode;

use super::*;

const ADDRESS: &str = "192.0.2.7";
const LOOPBACK: &str = "127.0.0.1";

fn rules() -> AbuseRules {
    AbuseRules {
        loopback: Counted::Users,
        shared_addresses: "198.51.100.0/24".parse().unwrap(),
        connections_per_address_max: 0,
        unconnected_per_address_max: 0,
        address_connects_per_s: 0,
        address_connects_burst: 0,
        client_connects_per_minute: 0,
        flapping_per_minute: 5,
        guesses_per_minute: 3,
        malformed_per_minute: 3,
        slow_first_ms: 100,
        slow_max_ms: 1_000,
        strikes_max: 2,
        ban_s: 60,
        tracked_max: 1_000,
    }
}

/// The rules in use, with what the runtime does between two calls.
struct World {
    abuse: Abuse,
    listener: ListenerBounds,
    now: Now,
}

impl World {
    fn new(rules: AbuseRules) -> Self {
        Self::at_listener(rules, ListenerBounds::default())
    }

    fn at_listener(rules: AbuseRules, listener: ListenerBounds) -> Self {
        Self { abuse: Abuse::new(rules), listener, now: Now { monotonic_ms: 0, unix_ms: 1_000 } }
    }

    fn later(&mut self, ms: u64) {
        self.now.monotonic_ms += ms;
        self.now.unix_ms += ms;
    }

    fn accept(&mut self, address: &str) -> Result<Seat, &'static str> {
        self.abuse.admit(
            self.now.monotonic_ms,
            Some(address.parse::<IpAddr>().unwrap()),
            "mqtt",
            self.listener,
        )
    }

    fn open(&mut self, address: &str, client: &str, user: Option<&str>) -> (Seat, Admission) {
        let mut seat = self.accept(address).expect("accepted");
        let admission = self.abuse.connect(self.now, &mut seat, client, user);
        (seat, admission)
    }

    /// Connects and leaves.
    fn visit(&mut self, address: &str, client: &str) -> Admission {
        let (seat, admission) = self.open(address, client, None);
        self.abuse.leave(seat);
        admission
    }

    /// Connects with a wrong password and leaves; closed at accept is `None`.
    fn guess(&mut self, address: &str, user: &str) -> Option<Admission> {
        let mut seat = self.accept(address).ok()?;
        let admission = self.abuse.connect(self.now, &mut seat, "", Some(user));
        if !matches!(admission, Admission::Refuse { .. }) {
            self.abuse.auth_failed(self.now, &seat, Some(user));
        }
        self.abuse.leave(seat);
        Some(admission)
    }

    fn banned(&mut self) -> Vec<String> {
        let bans = self.abuse.bans(self.now.monotonic_ms);
        bans.into_iter().map(|ban| format!("{} {}", ban.kind, ban.key)).collect()
    }
}

fn reason(admission: &Admission) -> Option<ReasonCode> {
    match admission {
        Admission::Refuse { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_flapping_client_is_slowed_then_banned_and_comes_back_after_the_ban() {
    let mut world = World::new(rules());
    for _ in 0..5 {
        assert_eq!(world.visit(ADDRESS, "flappy"), Admission::Admit);
    }
    assert_eq!(world.visit(ADDRESS, "flappy"), Admission::Delay { ms: 100 });
    assert_eq!(world.visit(ADDRESS, "flappy"), Admission::Delay { ms: 200 });
    let expected = Admission::Refuse {
        reason: ReasonCode::Banned,
        what: "this client is banned, try again in 60 s".to_owned(),
    };
    assert_eq!(world.visit(ADDRESS, "flappy"), expected);
    assert_eq!(reason(&world.visit("203.0.113.9", "flappy")), Some(ReasonCode::Banned));
    assert_eq!(world.visit(ADDRESS, "steady"), Admission::Admit);
    assert_eq!(world.banned(), ["client flappy"]);
    world.later(60_000);
    assert_eq!(world.visit(ADDRESS, "flappy"), Admission::Admit);
}

#[test]
fn clients_that_are_given_their_id_share_no_fate() {
    let mut world = World::new(rules());
    for _ in 0..100 {
        assert_eq!(world.visit(ADDRESS, ""), Admission::Admit);
    }
}

#[test]
fn who_guesses_passwords_is_slowed_then_banned_by_address_and_by_user() {
    let mut world = World::new(rules());
    let answers: Vec<_> = (0..6).map(|_| world.guess(ADDRESS, "root")).collect();
    let slow = |ms| Some(Admission::Delay { ms });
    let expected = [
        Some(Admission::Admit),
        Some(Admission::Admit),
        Some(Admission::Admit),
        Some(Admission::Admit),
        slow(100),
        slow(200),
    ];
    assert_eq!(answers, expected);
    assert_eq!(world.banned(), [format!("address {ADDRESS}"), "user root".to_owned()]);
    assert_eq!(world.guess(ADDRESS, "other"), None, "its address is closed at accept");
    assert_eq!(reason(&world.guess("203.0.113.9", "root").unwrap()), Some(ReasonCode::Banned));
    assert!(world.abuse.lift(world.now.monotonic_ms, &BanKey::parse("address", ADDRESS).unwrap()));
    assert_eq!(world.guess(ADDRESS, "other"), Some(Admission::Admit));
}

#[test]
fn a_user_who_logged_in_from_an_address_is_not_locked_out_by_others_who_guess() {
    let mut world = World::new(rules());
    let (mut seat, _) = world.open(ADDRESS, "phone", Some("ann"));
    world.abuse.authenticated(0, &mut seat, "phone", "ann", UserBounds::default()).unwrap();
    world.abuse.leave(seat);
    for i in 0..20 {
        world.guess(&format!("203.0.113.{i}"), "ann");
    }
    assert_eq!(world.banned(), ["user ann"]);
    let (seat, admission) = world.open(ADDRESS, "phone", Some("ann"));
    assert_eq!(admission, Admission::Admit);
    world.abuse.leave(seat);
    assert_eq!(reason(&world.guess("203.0.113.99", "ann").unwrap()), Some(ReasonCode::Banned));
}

#[test]
fn a_right_password_forgives_the_wrong_ones_before() {
    let mut world = World::new(rules());
    for _ in 0..10 {
        for _ in 0..3 {
            assert_eq!(world.guess(LOOPBACK, "ann"), Some(Admission::Admit));
        }
        let (mut seat, _) = world.open(LOOPBACK, "phone", Some("ann"));
        world
            .abuse
            .authenticated(world.now.monotonic_ms, &mut seat, "phone", "ann", UserBounds::default())
            .unwrap();
        world.abuse.leave(seat);
    }
}

#[test]
fn garbage_from_one_address_is_banned() {
    let mut world = World::new(rules());
    for _ in 0..6 {
        let seat = world.accept(ADDRESS).unwrap();
        world.abuse.malformed(world.now, &seat);
        world.abuse.leave(seat);
    }
    assert_eq!(world.accept(ADDRESS).unwrap_err(), "banned");
    assert_eq!(world.banned(), [format!("address {ADDRESS}")]);
}

#[test]
fn what_is_counted_depends_on_where_they_come_from() {
    for (loopback, address, expected) in [
        (Counted::Nothing, LOOPBACK, &[][..]),
        (Counted::Users, LOOPBACK, &["user root"]),
        (Counted::Clients, "::1", &["client flappy", "user root"]),
        (Counted::Nothing, "198.51.100.8", &["client flappy", "user root"]),
        (Counted::Address, LOOPBACK, &["address 127.0.0.1", "client flappy", "user root"]),
    ] {
        let mut world = World::new(AbuseRules { loopback, ..rules() });
        for _ in 0..20 {
            world.visit(address, "flappy");
        }
        for _ in 0..20 {
            world.guess(address, "root");
        }
        for _ in 0..20 {
            if let Ok(seat) = world.accept(address) {
                world.abuse.malformed(world.now, &seat);
                world.abuse.leave(seat);
            }
        }
        let mut banned = world.banned();
        banned.sort();
        assert_eq!(banned, expected, "{loopback:?} {address}");
    }
}

#[test]
fn without_bans_abuse_is_slowed_for_ever() {
    let mut world = World::new(AbuseRules { ban_s: 0, ..rules() });
    for _ in 0..50 {
        assert!(!matches!(world.visit(ADDRESS, "flappy"), Admission::Refuse { .. }));
    }
    assert!(matches!(world.visit(ADDRESS, "flappy"), Admission::Delay { .. } | Admission::Admit));
    assert!(world.banned().is_empty());
}

#[test]
fn connections_of_an_address_are_bounded_and_told() {
    let mut world = World::new(AbuseRules { connections_per_address_max: 2, ..rules() });
    let seats = [world.open(ADDRESS, "a", None), world.open(ADDRESS, "b", None)];
    assert!(seats.iter().all(|(_, admission)| *admission == Admission::Admit));
    let (third, admission) = world.open(ADDRESS, "c", None);
    let what = "your address has 2 connections, the limit".to_owned();
    assert_eq!(admission, Admission::Refuse { reason: ReasonCode::QuotaExceeded, what });
    assert_eq!(world.visit("203.0.113.9", "d"), Admission::Admit);
    for seat in seats.map(|(seat, _)| seat).into_iter().chain([third]) {
        world.abuse.leave(seat);
    }
    assert_eq!(world.visit(ADDRESS, "c"), Admission::Admit);
    // Whoever goes on far above the bound is not even told.
    let held: Vec<_> = (0..102).map(|_| world.accept(ADDRESS).unwrap()).collect();
    assert!(world.accept(ADDRESS).is_err());
    drop(held);
}

#[test]
fn connections_without_connect_are_bounded_for_each_address() {
    let mut world = World::new(AbuseRules { unconnected_per_address_max: 2, ..rules() });
    let mut first = world.accept(ADDRESS).unwrap();
    let second = world.accept(ADDRESS).unwrap();
    assert_eq!(world.accept(ADDRESS).unwrap_err(), "too many connections without CONNECT from its address");
    assert_eq!(world.abuse.unconnected(), 2);
    world.abuse.connect(world.now, &mut first, "a", None);
    assert!(!first.is_unconnected() && second.is_unconnected());
    assert!(world.accept(ADDRESS).is_ok());
    assert!(world.accept(LOOPBACK).is_ok(), "loopback is not counted by address");
}

#[test]
fn connects_are_bounded_by_listener_address_and_client() {
    let limited = ListenerBounds { connects_per_s: 2, ..ListenerBounds::default() };
    let by_listener = World::at_listener(rules(), limited);
    let by_address = World::new(AbuseRules { address_connects_per_s: 2, ..rules() });
    let by_client = World::new(AbuseRules { client_connects_per_minute: 2, ..rules() });
    for (mut world, wait_ms) in [(by_listener, 500), (by_address, 500), (by_client, 30_000)] {
        assert_eq!([(); 2].map(|()| world.visit(ADDRESS, "a")), [Admission::Admit, Admission::Admit]);
        assert_eq!(reason(&world.visit(ADDRESS, "a")), Some(ReasonCode::ConnectionRateExceeded));
        world.later(wait_ms);
        assert_eq!(world.visit(ADDRESS, "a"), Admission::Admit);
    }
}

#[test]
fn connections_of_a_listener_are_bounded() {
    let bounds = ListenerBounds { connections_max: 1, ..ListenerBounds::default() };
    let mut world = World::at_listener(rules(), bounds);
    let (first, admission) = world.open(ADDRESS, "a", None);
    assert_eq!(admission, Admission::Admit);
    assert_eq!(reason(&world.visit("203.0.113.9", "b")), Some(ReasonCode::QuotaExceeded));
    world.abuse.leave(first);
    assert_eq!(world.visit("203.0.113.9", "b"), Admission::Admit);
}

#[test]
fn clients_of_a_user_are_bounded_and_a_client_may_take_over_its_own_session() {
    let mut world = World::new(rules());
    let bounds = UserBounds { connections_max: 1, ..UserBounds::default() };
    let enter = |world: &mut World, client: &str| {
        let (mut seat, _) = world.open(ADDRESS, client, Some("ann"));
        let result = world.abuse.authenticated(0, &mut seat, client, "ann", bounds);
        (seat, result.map(drop))
    };
    let (first, result) = enter(&mut world, "phone");
    assert_eq!(result, Ok(()));
    let (again, result) = enter(&mut world, "phone");
    assert_eq!(result, Ok(()), "the same client takes over");
    let (other, result) = enter(&mut world, "tablet");
    assert_eq!(result.map_err(|refusal| reason(&refusal)), Err(Some(ReasonCode::QuotaExceeded)));
    for seat in [first, other] {
        world.abuse.leave(seat);
    }
    let (other, result) = enter(&mut world, "tablet");
    assert!(result.is_err(), "the phone is still there");
    for seat in [again, other] {
        world.abuse.leave(seat);
    }
    assert_eq!(enter(&mut world, "tablet").1, Ok(()));
}

#[test]
fn what_leaves_leaves_nothing_behind() {
    let mut world = World::new(AbuseRules { connections_per_address_max: 10, ..rules() });
    let bounds = UserBounds { connections_max: 5, ..UserBounds::default() };
    for i in 0..5 {
        let mut seat = world.accept(&format!("203.0.113.{i}")).unwrap();
        if i % 2 == 0 {
            world.abuse.connect(world.now, &mut seat, "c", Some("u"));
            world.abuse.authenticated(0, &mut seat, "c", "u", bounds).unwrap();
        }
        world.abuse.leave(seat);
    }
    let text = format!("{:?}", world.abuse);
    assert!(text.contains("addresses: {}") && text.contains("users: {}"), "{text}");
    assert_eq!(world.abuse.unconnected(), 0);
}
