//! The chain with its files, as the shard asks it.

use std::{fs, path::PathBuf, time::Duration};

use protocol::ProtocolVersion;
use tempfile::TempDir;

use super::*;
use crate::config::Anonymous;

const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    dir: TempDir,
    config: Config,
    inbox: Arc<Inbox>,
    executor: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (dir, inbox) = (tempfile::tempdir().unwrap(), Arc::default());
        Self { dir, config: Config::default(), inbox, executor }
    }

    fn users_path(&self) -> PathBuf {
        self.dir.path().join("users.toml")
    }

    /// A world with users and their passwords.
    fn with_users(users: &[(&str, &str)]) -> Self {
        let mut world = Self::new();
        world.write_users(users);
        world.config.auth.users_file = world.users_path();
        world
    }

    fn write_users(&self, users: &[(&str, &str)]) {
        let mut file = UsersFile::open(&self.users_path()).unwrap();
        for (name, password) in users {
            let password = Some(Secret::from(password.as_bytes()));
            file.set(name, UserChange { password, scram: true, ..UserChange::default() }).unwrap();
        }
        file.save().unwrap();
    }

    fn change(&self, name: &str, change: UserChange) {
        let mut file = UsersFile::open(&self.users_path()).unwrap();
        file.set(name, change).unwrap();
        file.save().unwrap();
    }

    fn start(&self) -> Auth {
        Auth::start(&self.config, &self.inbox).unwrap().0
    }

    fn ask(&self, auth: &Auth, claim: Claim) -> Verdict {
        match auth.begin(claim) {
            Pending::Now(verdict) => verdict,
            Pending::Later(verdict) => self
                .executor
                .block_on(async { tokio::time::timeout(PATIENCE, verdict).await })
                .expect("a verdict in time")
                .expect("the thread lives"),
        }
    }
}

fn claim(username: Option<&str>, password: Option<&str>) -> Claim {
    Claim {
        client_id: "client".into(),
        username: username.map(ByteString::from),
        password: password.map(|password| Secret::from(password.as_bytes())),
        certificate: None,
        certificate_is_user: true,
        version: ProtocolVersion::V5,
        address: "127.0.0.1:1".to_owned(),
        listener: "mqtt".to_owned(),
        anonymous_allowed: false,
    }
}

#[track_caller]
fn allowed(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Allow(grant) => *grant,
        Verdict::Deny(denial) => panic!("expected a grant, got {denial:?}"),
    }
}

#[track_caller]
fn denied(verdict: Verdict, reason: ReasonCode, why: &str) -> Denial {
    match verdict {
        Verdict::Deny(denial) => {
            assert_eq!(denial.reason, reason, "{denial:?}");
            assert!(denial.why.contains(why), "{denial:?}, expected {why:?}");
            denial
        }
        Verdict::Allow(grant) => panic!("expected a denial, got {grant:?}"),
    }
}

#[test]
fn a_user_comes_in_with_the_password_and_nobody_learns_who_exists() {
    let world = World::with_users(&[("alice", "one"), ("off", "two")]);
    world.change("off", UserChange { disabled: Some(true), ..UserChange::default() });
    let auth = world.start();
    let user = allowed(world.ask(&auth, claim(Some("alice"), Some("one")))).principal.user;
    assert_eq!(user.as_deref(), Some("alice"));
    // The second time from memory; a wrong one is never taken from there.
    allowed(world.ask(&auth, claim(Some("alice"), Some("one"))));
    let told: Vec<_> = [
        (Some("alice"), Some("two"), "the password is wrong"),
        (Some("alice"), None, "the password is missing"),
        (Some("bob"), Some("one"), "nobody knows the user"),
        (Some("bob"), None, "nobody knows the user"),
        (Some("off"), Some("two"), "disabled"),
        (Some("anon:x"), Some("one"), "anon:"),
        (None, Some("one"), "nobody knows the user"),
    ]
    .into_iter()
    .map(|(user, password, why)| {
        denied(world.ask(&auth, claim(user, password)), ReasonCode::BadUserNameOrPassword, why).what
    })
    .collect();
    assert!(told.iter().all(|what| *what == told[0]), "{told:?}");
}

#[test]
fn a_right_password_is_remembered_until_it_is_another() {
    let world = World::with_users(&[("alice", "one")]);
    let auth = world.start();
    let remembered = || auth.0.right.lock().unwrap().len();
    allowed(world.ask(&auth, claim(Some("alice"), Some("one"))));
    allowed(world.ask(&auth, claim(Some("alice"), Some("one"))));
    denied(world.ask(&auth, claim(Some("alice"), Some("two"))), ReasonCode::BadUserNameOrPassword, "wrong");
    assert_eq!(remembered(), 1);
    world.write_users(&[("alice", "two")]);
    assert_eq!(auth.0.reload(Part::Users, &world.config).unwrap(), "1 users");
    assert_eq!(remembered(), 0);
    denied(world.ask(&auth, claim(Some("alice"), Some("one"))), ReasonCode::BadUserNameOrPassword, "wrong");
    allowed(world.ask(&auth, claim(Some("alice"), Some("two"))));
}

#[test]
fn who_brings_nothing_comes_in_where_that_is_allowed() {
    let open = |claim: Claim| Claim { anonymous_allowed: true, ..claim };
    let world = World::new();
    let auth = world.start();
    assert_eq!(allowed(world.ask(&auth, open(claim(None, None)))).principal.user, None);
    // Nobody could check it, and it lets nobody be anybody else.
    assert_eq!(allowed(world.ask(&auth, open(claim(Some("alice"), Some("x"))))).principal.user, None);
    denied(world.ask(&auth, claim(None, None)), ReasonCode::NotAuthorized, "say who they are");
    let world = World::with_users(&[("alice", "one")]);
    let auth = world.start();
    allowed(world.ask(&auth, open(claim(None, None))));
    let wrong = world.ask(&auth, open(claim(Some("nobody"), Some("x"))));
    denied(wrong, ReasonCode::BadUserNameOrPassword, "nobody knows");
    denied(world.ask(&auth, claim(None, None)), ReasonCode::NotAuthorized, "say who they are");
}

#[test]
fn a_certificate_is_its_user() {
    let world = World::with_users(&[("truck", "one"), ("off", "two")]);
    world.change("truck", UserChange { groups: Some(vec!["fleet".into()]), ..UserChange::default() });
    world.change("off", UserChange { disabled: Some(true), ..UserChange::default() });
    let auth = world.start();
    let by = |name: &str| Claim { certificate: Some(name.into()), ..claim(Some("alice"), Some("wrong")) };
    let grant = allowed(world.ask(&auth, by("truck")));
    assert_eq!(grant.principal.user.as_deref(), Some("truck"));
    assert_eq!(&grant.principal.groups[..], [ByteString::from_static("fleet")]);
    assert_eq!(allowed(world.ask(&auth, by("unlisted"))).principal.user.as_deref(), Some("unlisted"));
    denied(world.ask(&auth, by("off")), ReasonCode::NotAuthorized, "disabled");
    denied(world.ask(&auth, by("anon:x")), ReasonCode::NotAuthorized, "anon:");
    assert_eq!(auth.recheck(&grant), Recheck::Keep);
}

#[test]
fn more_clients_than_may_wait_are_told_that_the_broker_is_busy() {
    let mut world = World::with_users(&[("alice", "one")]);
    (world.config.auth.waiting_max, world.config.auth.workers) = (2, 1);
    let auth = world.start();
    // Nothing is hashed while the test holds the only permit.
    let permit = Arc::clone(&auth.0.hashing).try_acquire_owned().unwrap();
    let mut waiting: Vec<_> = (0..2).map(|_| auth.begin(claim(Some("alice"), Some("one")))).collect();
    denied(world.ask(&auth, claim(Some("alice"), Some("one"))), ReasonCode::ServerBusy, "too many");
    // A client that leaves makes room, and its password is never hashed.
    waiting.pop();
    let deadline = Instant::now() + PATIENCE;
    while auth.0.waiting.available_permits() == 0 {
        assert!(Instant::now() < deadline, "a client that left still waits");
        thread::yield_now();
    }
    drop(permit);
    let Some(Pending::Later(verdict)) = waiting.pop() else { panic!("it waits") };
    allowed(world.executor.block_on(verdict).unwrap());
    assert_eq!(auth.0.waiting.available_permits(), 2);
}

#[test]
fn who_is_connected_is_judged_anew_after_a_reload() {
    let world = World::with_users(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
    let auth = world.start();
    let grants: Vec<_> = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]
        .map(|(name, password)| allowed(world.ask(&auth, claim(Some(name), Some(password)))))
        .into();
    let mut file = UsersFile::open(&world.users_path()).unwrap();
    file.delete("a").unwrap();
    file.set("b", UserChange { disabled: Some(true), ..UserChange::default() }).unwrap();
    file.set("c", UserChange { password: Some(Secret::from(&b"new"[..])), ..UserChange::default() }).unwrap();
    file.set("d", UserChange { groups: Some(vec!["g".into()]), ..UserChange::default() }).unwrap();
    file.save().unwrap();
    drop(file);
    auth.0.reload(Part::Users, &world.config).unwrap();
    assert_eq!(auth.recheck(&grants[0]), Recheck::End("the user was removed"));
    assert_eq!(auth.recheck(&grants[1]), Recheck::End("the user was disabled"));
    assert_eq!(auth.recheck(&grants[2]), Recheck::End("the password was changed"));
    let Recheck::Become(principal) = auth.recheck(&grants[3]) else { panic!("d has a group now") };
    assert_eq!(&principal.groups[..], [ByteString::from_static("g")]);
    assert_eq!(auth.recheck(&grants[4]), Recheck::Keep);
}

#[test]
fn a_wrong_file_at_a_reload_changes_nothing() {
    let mut world = World::with_users(&[("alice", "one")]);
    world.config.auth.acl_file = world.dir.path().join("acl.toml");
    fs::write(&world.config.auth.acl_file, "[[rule]]\nallow = true\nfilter = \"a\"\n").unwrap();
    let auth = world.start();
    fs::write(world.users_path(), "[users]\n\nalice = 7\n").unwrap();
    let error = auth.0.reload(Part::Users, &world.config).unwrap_err();
    assert!(error.contains("users.toml:3: "), "{error}");
    allowed(world.ask(&auth, claim(Some("alice"), Some("one"))));
    fs::write(&world.config.auth.acl_file, "[[rule]]\nallow = true\nfilter = \"a/#/b\"\n").unwrap();
    let error = auth.0.reload(Part::Acl, &world.config).unwrap_err();
    assert!(error.contains("acl.toml:1: [[rule]] number 1: filter"), "{error}");
    assert_eq!(auth.acl().rules.len(), 1);
    for path in [world.users_path(), world.config.auth.acl_file.clone()] {
        fs::remove_file(path).unwrap();
    }
    assert!(auth.0.reload(Part::Users, &world.config).unwrap_err().contains("cannot read it"));
    assert!(check_files(&world.config).is_err());
}

#[test]
fn only_users_of_the_file_prove_their_password_by_scram() {
    let world = World::with_users(&[("alice", "one")]);
    let auth = world.start();
    assert!(auth.begin_enhanced(&"SCRAM-SHA-256".into()).is_some());
    for method in ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "scram-sha-256", "PLAIN", ""] {
        assert!(auth.begin_enhanced(&method.into()).is_none(), "{method}");
    }
    let mut enhanced = auth.begin_enhanced(&"SCRAM-SHA-256".into()).unwrap();
    assert_eq!(auth.continue_enhanced(&mut enhanced, None), Ok(Step::Challenge(None)));
    let Ok(Step::Challenge(Some(_))) = auth.continue_enhanced(&mut enhanced, Some(b"n,,n=alice,r=abc"))
    else {
        panic!("a challenge is due")
    };
    assert!(auth.continue_enhanced(&mut enhanced, None).is_err(), "data are due");
    let mut without = World::new();
    assert!(without.start().begin_enhanced(&"SCRAM-SHA-256".into()).is_none());
    without.config = Config::default();
    without.config.auth = config::Auth { scram: false, ..world.config.auth.clone() };
    assert!(without.start().begin_enhanced(&"SCRAM-SHA-256".into()).is_none());
}

#[test]
fn the_listener_decides_before_the_policy_who_may_be_anonymous() {
    let mut world = World::new();
    let door = policy::Door { anonymous: None, is_loopback_only: true, has_certificates: false };
    assert!(world.start().anonymous_allowed(&door));
    assert!(!world.start().anonymous_allowed(&policy::Door { anonymous: Some(false), ..door }));
    world.config.auth.anonymous = Anonymous::Deny;
    assert!(!world.start().anonymous_allowed(&door));
}
