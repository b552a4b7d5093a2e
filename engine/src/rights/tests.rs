//! Tables of rules and what they say, and that nothing denied comes through a wildcard.

use proptest::prelude::*;
use protocol::TopicFilter;

use super::*;

/// Reads a rule as `allow all both a/#`.
fn rule(text: &str) -> AclRule {
    let words: Vec<&str> = text.split(' ').collect();
    let who = match words[1].split_once('=') {
        None if words[1] == "anonymous" => Who::Anonymous,
        None if words[1] == "authenticated" => Who::Authenticated,
        None => Who::All,
        Some(("user", name)) => Who::User(name.into()),
        Some(("group", name)) => Who::Group(name.into()),
        Some((_, name)) => Who::Client(name.into()),
    };
    let access = match words[2] {
        "publish" => Access::Publish,
        "subscribe" => Access::Subscribe,
        _ => Access::Both,
    };
    AclRule { allow: words[0] == "allow", who, access, filter: words[3].into() }
}

fn node(rules: &[&str]) -> Arc<NodeRules> {
    Arc::new(NodeRules::new(Arc::new(Acl { rules: rules.iter().map(|r| rule(r)).collect() })))
}

fn user(name: &str, groups: &[&str], own: &[&str]) -> Principal {
    Principal {
        user: Some(name.into()),
        groups: groups.iter().map(|g| ByteString::from(*g)).collect(),
        rules: own.iter().map(|r| rule(r)).collect(),
        ..Principal::default()
    }
}

fn rights(rules: &[&str], principal: &Principal, client_id: &str) -> Rights {
    let user = principal.user.as_ref().map_or(format!("anon:{client_id}"), |u| u.to_string());
    Rights::new(&node(rules), principal, client_id, &user)
}

#[test]
fn without_any_rule_everything_is_allowed_and_with_one_only_what_it_allows() {
    let mut none = rights(&[], &Principal::default(), "c");
    assert!(none.may_publish(&"t".into()).is_ok() && none.may_subscribe("$SYS/#").is_ok());
    for (of_node, own) in [(vec!["allow all both a"], vec![]), (vec![], vec!["allow all both a"])] {
        let mut some = rights(&of_node, &user("u", &[], &own), "c");
        assert!(some.may_publish(&"a".into()).is_ok() && some.may_subscribe("a").is_ok());
        assert!(some.may_publish(&"b".into()).is_err() && some.may_subscribe("b").is_err());
        assert!(!some.may_read("b") && some.may_read("a"));
    }
    // A rule about somebody else is a rule too.
    assert!(rights(&["allow user=x both #"], &user("u", &[], &[]), "c").may_subscribe("a").is_err());
}

#[test]
fn the_first_rule_that_matches_decides_and_a_principals_own_come_first() {
    for (own, of_node, allowed) in [
        (vec![], vec!["deny all both a/b", "allow all both a/#"], false),
        (vec![], vec!["allow all both a/#", "deny all both a/b"], true),
        (vec!["allow all both a/b"], vec!["deny all both a/#"], true),
        (vec!["deny all both a/b"], vec!["allow all both a/#"], false),
        (vec!["deny all subscribe a/b"], vec!["allow all publish a/#"], true),
    ] {
        let mut rights = rights(&of_node, &user("u", &[], &own), "c");
        assert_eq!(rights.may_publish(&"a/b".into()).is_ok(), allowed, "{own:?} {of_node:?}");
    }
}

#[test]
fn rules_are_about_whom_they_name() {
    let anonymous = Principal::default();
    let alice = user("alice", &["drivers"], &[]);
    for (who, for_anonymous, for_alice) in [
        ("all", true, true),
        ("anonymous", true, false),
        ("authenticated", false, true),
        ("user=alice", false, true),
        ("user=anon:phone", false, false),
        ("user=bob", false, false),
        ("group=drivers", false, true),
        ("group=riders", false, false),
        ("client=phone", true, true),
        ("client=desk", false, false),
    ] {
        let rule = format!("allow {who} both #");
        for (principal, expected) in [(&anonymous, for_anonymous), (&alice, for_alice)] {
            for (of_node, own) in [(vec![&*rule], vec![]), (vec![], vec![&*rule])] {
                let principal =
                    Principal { rules: own.iter().map(|r| self::rule(r)).collect(), ..principal.clone() };
                let mut rights = rights(&of_node, &principal, "phone");
                assert_eq!(rights.may_publish(&"t".into()).is_ok(), expected, "{who} {principal:?}");
            }
        }
    }
}

#[test]
fn names_stand_for_one_literal_level_or_the_rule_matches_nothing() {
    for (filter, client_id, name, topic, allowed) in [
        ("dev/%c/#", "truck", "u", "dev/truck/x", true),
        ("dev/%c/#", "truck", "u", "dev/other/x", false),
        ("dev/%c/#", "+", "u", "dev/other/x", false),
        ("dev/%c/#", "#", "u", "dev/other/x", false),
        ("dev/%c/#", "a/b", "u", "dev/a/b", false),
        ("dev/%c/#", "", "u", "dev//b", false),
        ("%c/#", "$SYS", "u", "$SYS/x", false),
        ("x/%c", "$SYS", "u", "x/$SYS", true),
        ("%u/%c", "c", "u", "u/c", true),
        ("%u/%c", "c", "u/c", "u/c/c", false),
        ("user/%u", "c", "u+", "user/u+", false),
        ("a%c", "c", "u", "ac", false),
        ("a%c", "c", "u", "a%c", true),
        ("%c", "%u", "u", "%u", true),
    ] {
        let mut rights = rights(&[&format!("allow all both {filter}")], &user(name, &[], &[]), client_id);
        assert_eq!(rights.may_publish(&topic.into()).is_ok(), allowed, "{filter} {client_id} {name} {topic}");
        assert_eq!(rights.may_read(topic), allowed, "{filter} {client_id} {name} {topic}");
    }
    assert!(rights(&["allow all both u/%u"], &Principal::default(), "c").may_subscribe("u/anon:c").is_ok());
}

#[test]
fn a_subscription_is_allowed_as_a_whole_or_not_at_all() {
    for (rules, filter, denied) in [
        (vec!["allow all both a/#"], "a/+", None),
        (vec!["allow all both a/+"], "a/#", Some("no rule allows it")),
        (vec!["allow all both a/b"], "a/+", Some("no rule allows it")),
        (vec!["deny all both a/secret", "allow all both a/#"], "a/#", Some("a rule denies \"a/secret\"")),
        (vec!["deny all both a/secret", "allow all both a/#"], "a/b", None),
        (vec!["allow all both a/#", "deny all both a/secret"], "a/#", None),
        (vec!["deny all both a/%c", "allow all both #"], "#", Some("a rule denies \"a/%c\"")),
        (vec!["deny all publish a/b", "allow all both #"], "#", None),
        (vec!["allow all both #"], "$SYS/#", Some("no rule allows it")),
        (vec!["allow all both $SYS/#"], "$SYS/broker", None),
        (vec!["allow all both #"], "$im/presence/x", Some("no rule allows it")),
        (vec!["allow all both $im/presence/+"], "$im/presence/x", None),
        (vec!["deny all both $im/#"], "$im/receipts", None),
        (vec!["deny all both #"], "$im/errors", None),
        (vec!["deny all both #"], "$im/mine", None),
        (vec!["deny all both #"], "$im/inbox", None),
        (vec!["deny all both #"], "$im/probe/+", None),
        (vec!["deny all both #"], "$im/probe/#", Some("no rule allows it")),
    ] {
        let said = rights(&rules, &Principal::default(), "c").may_subscribe(filter);
        assert_eq!(said.err().map(|d| d.to_string()).as_deref(), denied, "{rules:?} {filter}");
    }
}

#[test]
fn prefixes_are_no_part_of_what_is_asked_for() {
    for (full, topics) in
        [("a/b", "a/b"), ("$share/g/a/#", "a/#"), ("$share/g//a", "/a"), ("$shared/a", "$shared/a")]
    {
        assert_eq!(topics_of(full), topics);
    }
}

#[test]
fn what_was_allowed_is_remembered_within_bounds_and_what_is_denied_never() {
    let mut rules: Vec<String> = (0..100).map(|n| format!("allow all both topic/{n}")).collect();
    rules.push("deny all both topic/denied".into());
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut rights = rights(&rules, &Principal::default(), "c");
    for _ in 0..2 {
        for n in 0..100 {
            assert!(rights.may_publish(&format!("topic/{n}").into()).is_ok());
            assert!(rights.may_publish(&"topic/denied".into()).is_err());
        }
    }
    assert_eq!(rights.picked.as_ref().unwrap().recent.topics.len(), RECENT_MAX);
    let long = format!("allow all both {}", "x".repeat(RECENT_BYTES_MAX + 1));
    let mut rights = self::rights(&[long.as_str(); REMEMBERED_FROM], &Principal::default(), "c");
    assert!(rights.may_publish(&"x".repeat(RECENT_BYTES_MAX + 1).into()).is_ok());
    assert!(rights.picked.as_ref().unwrap().recent.topics.is_empty());
}

fn any_filter() -> impl Strategy<Value = String> {
    "(\\+|[ab]?|\\$a|%c)(/(\\+|[ab]?)){0,2}(/#)?|#".prop_filter("empty", |f| !f.is_empty())
}

fn any_rule() -> impl Strategy<Value = AclRule> {
    let who = prop::sample::select(vec![
        Who::All,
        Who::Anonymous,
        Who::Authenticated,
        Who::User("u".into()),
        Who::Group("g".into()),
        Who::Client("a".into()),
    ]);
    let access = prop::sample::select(vec![Access::Publish, Access::Subscribe, Access::Both]);
    (any::<bool>(), who, access, any_filter()).prop_map(|(allow, who, access, filter)| AclRule {
        allow,
        who,
        access,
        filter: filter.into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn rights_are_what_the_rules_say_one_by_one_and_no_wildcard_leaks(
        rules in prop::collection::vec(any_rule(), 0..6),
        own in prop::collection::vec(any_rule(), 0..3),
        asked in any_filter(),
        topic in "(\\$a|[ab]?)(/[ab]?){0,3}",
        is_named in any::<bool>(),
    ) {
        prop_assume!(!topic.is_empty() && TopicFilter::parse(asked.as_str().into()).is_ok());
        let mut principal = Principal { rules: own.clone().into(), ..Principal::default() };
        if is_named {
            (principal.user, principal.groups) = (Some("u".into()), ["g".into()].into());
        }
        let node = Arc::new(NodeRules::new(Arc::new(Acl { rules: rules.clone() })));
        let mut rights = Rights::new(&node, &principal, "a", "u");
        let all: Vec<_> = own.iter().chain(&rules).collect();
        let first = |access: Access| all.iter().find(|r| {
            let filter = r.filter.replace("%c", "a");
            r.is_for(access) && r.is_about("a", &principal) && filter_matches(&filter, &topic)
        });
        let by_rules = |access| all.is_empty() || first(access).is_some_and(|r| r.allow);
        prop_assert_eq!(rights.may_publish(&topic.as_str().into()).is_ok(), by_rules(Access::Publish));
        prop_assert_eq!(rights.may_read(&topic), by_rules(Access::Subscribe));
        prop_assert_eq!(rights.may_read(&topic), rights.may_subscribe(&topic).is_ok());
        if rights.may_subscribe(&asked).is_ok() && filter_matches(&asked, &topic) {
            prop_assert!(rights.may_read(&topic), "{} lets {} through", asked, topic);
        }
    }
}
