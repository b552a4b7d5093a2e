//! Files that change under a running broker.

use std::fs;
use std::process::Command;

use protocol::ProtocolVersion::{V5, V311};
use protocol::{QoS, ReasonCode};

use super::{Files, connected, log, try_connect, wait_for_log, wait_until};
use crate::raw_client::message;

#[test]
fn who_was_removed_or_has_another_password_is_disconnected_and_others_stay() {
    let files = Files::with_users(&[("gone", "1"), ("changed", "2"), ("stays", "3")]);
    let broker = files.broker("");
    let mut gone = connected(&broker, "gone", "gone", "1");
    let mut changed = connected(&broker, "changed", "changed", "2");
    let mut stays = connected(&broker, "stays", "stays", "3");
    let (mut old, _) = try_connect(&broker, "old", V311, "gone", "1");
    assert!(files.passwd(&["gone", "--delete"], "").status.success());
    files.set_password("changed", "new");
    gone.expect_disconnect(ReasonCode::NotAuthorized);
    changed.expect_disconnect(ReasonCode::NotAuthorized);
    old.expect_closed();
    stays.publish_accepted("a", "x");
    let (_, ack) = try_connect(&broker, "gone", V5, "gone", "1");
    assert_eq!(ack.reason, ReasonCode::BadUserNameOrPassword);
    connected(&broker, "changed", "changed", "new");
}

#[test]
fn rules_and_groups_hold_at_once_for_who_is_connected() {
    let files = Files::with_users(&[("alice", "1")]);
    let rules = |allow: bool| {
        format!(
            "[[rule]]\nallow = {allow}\ngroup = \"ops\"\nfilter = \"ops/#\"\n[[rule]]\nallow = true\nfilter = \"all/#\"\n"
        )
    };
    let acl = files.write("acl.toml", &rules(true));
    let broker = files.broker(&format!("acl_file = {acl:?}\n"));
    let mut client = connected(&broker, "c", "alice", "1");
    let mut publish =
        |topic: &str| client.publish(message(topic, "x", QoS::AtLeastOnce)).expect("a PUBACK").reason;
    assert!(!publish("all/a").is_failure());
    assert_eq!(publish("ops/a"), ReasonCode::NotAuthorized);
    assert!(files.passwd(&["alice", "--group", "ops"], "").status.success());
    wait_until("the group holds", || publish("ops/a") != ReasonCode::NotAuthorized);
    files.write("acl.toml", &rules(false));
    wait_until("the rule holds", || publish("ops/a") == ReasonCode::NotAuthorized);
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_with_its_line() {
    let files = Files::with_users(&[("alice", "1")]);
    let broker = files.broker("");
    let mut alice = connected(&broker, "c", "alice", "1");
    let good = fs::read_to_string(files.path("users.toml")).expect("the users file");
    // Replaced by a rename, as editors and deployments do.
    let new = files.write("new", &format!("{good}bob = {{ password = \"hunter2\" }}\n"));
    fs::rename(new, files.path("users.toml")).expect("renamed");
    wait_for_log(&broker, "not reloaded");
    let text = log(&broker);
    let line = good.lines().count() + 1;
    assert!(
        text.contains(&format!("users.toml:{line}: user \\\"bob\\\": password is no argon2id hash")),
        "{text}"
    );
    assert!(text.contains("ERROR") && !text.contains("hunter2"), "{text}");
    alice.publish_accepted("a", "x");
    connected(&broker, "d", "alice", "1");
    files.write("users.toml", &good.replace("alice = ", "carol = "));
    alice.expect_disconnect(ReasonCode::NotAuthorized);
    connected(&broker, "d", "carol", "1");
}

#[test]
fn sighup_reads_everything_again_and_says_so() {
    let files = Files::with_users(&[("alice", "1")]);
    let acl = files.write("acl.toml", "[[rule]]\nallow = true\nfilter = \"#\"\n");
    let broker = files.broker(&format!("acl_file = {acl:?}\n"));
    let mut alice = connected(&broker, "c", "alice", "1");
    let hup = Command::new("kill").args(["-HUP", &broker.pid().to_string()]).status().expect("kill runs");
    assert!(hup.success());
    for holds in ["holds=\"1 users\"", "holds=\"1 rules\""] {
        wait_for_log(&broker, holds);
    }
    alice.publish_accepted("a", "x");
}
