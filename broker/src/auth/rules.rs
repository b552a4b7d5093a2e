//! Rules and bounds as text: of the ACL file, of a token's claim, of a hook's answer, of the users file.
//!
//! Parsed strictly: a key that is unknown or a filter that matches nothing is an error, because a rule that is
//! silently not there opens or closes a door.

use std::{
    num::{NonZeroU16, NonZeroU32},
    path::Path,
};

use engine::{Access, Acl, AclRule, OnFull, SessionLimits, Who};
use protocol::{ByteString, TopicFilter};
use serde::Deserialize;
use toml::Spanned;

use super::text_file::{TextFile, place};

/// Rules of one ACL file.
const RULES_MAX: usize = 10_000;

/// Rules that a token or a hook may bring.
const OWN_RULES_MAX: usize = 256;

/// An ACL file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AclText {
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
}

/// `[[rule]]`: at most one of `user`, `group`, `client`, `anonymous`, `authenticated`; none is everyone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    allow: bool,
    user: Option<String>,
    group: Option<String>,
    client: Option<String>,
    #[serde(default)]
    anonymous: bool,
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    access: AccessText,
    filter: String,
}

/// A rule that its bearer alone has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnRuleText {
    allow: bool,
    #[serde(default)]
    access: AccessText,
    filter: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AccessText {
    Publish,
    Subscribe,
    #[default]
    Both,
}

impl AccessText {
    fn access(self) -> Access {
        match self {
            Self::Publish => Access::Publish,
            Self::Subscribe => Access::Subscribe,
            Self::Both => Access::Both,
        }
    }
}

/// Reads an ACL file.
///
/// # Errors
/// It cannot be read or is wrong; the message has file and line.
pub(crate) fn read_acl(path: &Path) -> Result<Acl, String> {
    let TextFile { text, .. } = TextFile::read(path)?;
    parse_acl(&text).map_err(|(at, what)| format!("{}: {what}", place(path, &text, at)))
}

fn parse_acl(text: &str) -> Result<Acl, (usize, String)> {
    let acl: AclText = toml::from_str(text)
        .map_err(|error| (error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
    if acl.rule.len() > RULES_MAX {
        return Err((0, format!("{} rules, at most {RULES_MAX} are taken", acl.rule.len())));
    }
    let rules = acl.rule.into_iter().enumerate().map(|(i, rule)| {
        let at = rule.span().start;
        rule.into_inner().rule().map_err(|what| (at, format!("[[rule]] number {}: {what}", i + 1)))
    });
    Ok(Acl { rules: rules.collect::<Result<_, _>>()? })
}

impl RuleText {
    fn rule(self) -> Result<AclRule, String> {
        let mut named = [
            self.user.map(|name| Who::User(name.into())),
            self.group.map(|name| Who::Group(name.into())),
            self.client.map(|name| Who::Client(name.into())),
            self.anonymous.then_some(Who::Anonymous),
            self.authenticated.then_some(Who::Authenticated),
        ]
        .into_iter()
        .flatten();
        let who = named.next().unwrap_or(Who::All);
        if let Some(second) = named.next() {
            return Err(format!("it is about both {who:?} and {second:?}; write two rules"));
        }
        if let Who::User(name) | Who::Group(name) | Who::Client(name) = &who
            && name.is_empty()
        {
            return Err("it names somebody whose name is empty; leave the key out for everyone".to_owned());
        }
        Ok(AclRule { allow: self.allow, who, access: self.access.access(), filter: filter(self.filter)? })
    }
}

/// Turns the rules that a token or a hook brings into rules about their bearer.
///
/// # Errors
/// One is wrong, or there are too many.
pub(crate) fn own_rules(rules: Vec<OwnRuleText>) -> Result<Vec<AclRule>, String> {
    if rules.len() > OWN_RULES_MAX {
        return Err(format!("{} rules, at most {OWN_RULES_MAX} are taken", rules.len()));
    }
    let rule = |rule: OwnRuleText| {
        let (allow, access) = (rule.allow, rule.access.access());
        Ok(AclRule { allow, who: Who::All, access, filter: filter(rule.filter)? })
    };
    rules.into_iter().map(rule).collect()
}

/// Checks a filter of a rule: a topic filter in which a whole level may be `%c` or `%u`.
fn filter(text: String) -> Result<ByteString, String> {
    let what = |what: String| format!("filter = {text:?}: {what}");
    let parsed = TopicFilter::parse(text.as_str().into()).map_err(|error| what(error.to_string()))?;
    if parsed.share.is_some() {
        let why = "a shared subscription is judged by the filter behind its group: leave $share/GROUP/ out";
        return Err(what(why.to_owned()));
    }
    for level in text.split('/') {
        if (level.contains("%c") || level.contains("%u")) && level.len() > 2 {
            return Err(what(format!("%c and %u stand for a whole level, not for a part of {level:?}")));
        }
    }
    Ok(text.into())
}

/// Bounds of one session, as a users file's `[limits.NAME]` or a hook's answer gives them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsText {
    subscriptions_max: Option<usize>,
    queue_messages_max: Option<usize>,
    queue_bytes_max: Option<usize>,
    on_full: Option<OnFullText>,
    inflight_max: Option<NonZeroU16>,
    receive_maximum: Option<NonZeroU16>,
    packet_bytes_max: Option<NonZeroU32>,
    topic_levels_max: Option<usize>,
    session_expiry_max_s: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnFullText {
    DropOldest,
    DropNewest,
    Reject,
}

impl LimitsText {
    pub(crate) fn limits(&self) -> SessionLimits {
        SessionLimits {
            subscriptions_max: self.subscriptions_max,
            queue_messages_max: self.queue_messages_max,
            queue_bytes_max: self.queue_bytes_max,
            on_full: self.on_full.map(|on_full| match on_full {
                OnFullText::DropOldest => OnFull::DropOldest,
                OnFullText::DropNewest => OnFull::DropNewest,
                OnFullText::Reject => OnFull::Reject,
            }),
            inflight_max: self.inflight_max,
            receive_maximum: self.receive_maximum,
            packet_bytes_max: self.packet_bytes_max,
            topic_levels_max: self.topic_levels_max,
            session_expiry_max_s: self.session_expiry_max_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_in_order_with_whom_and_what_they_are_about() {
        let acl = parse_acl(
            "[[rule]]\nallow = true\nuser = \"alice\"\nfilter = \"#\"\n\
             [[rule]]\nallow = false\ngroup = \"guests\"\naccess = \"publish\"\nfilter = \"im/+\"\n\
             [[rule]]\nallow = true\nanonymous = true\naccess = \"subscribe\"\nfilter = \"dev/%c/%u/#\"\n\
             [[rule]]\nallow = false\nfilter = \"$SYS/#\"\n",
        )
        .unwrap();
        let rule = |allow, who, access, filter: &str| AclRule { allow, who, access, filter: filter.into() };
        assert_eq!(
            acl.rules,
            [
                rule(true, Who::User("alice".into()), Access::Both, "#"),
                rule(false, Who::Group("guests".into()), Access::Publish, "im/+"),
                rule(true, Who::Anonymous, Access::Subscribe, "dev/%c/%u/#"),
                rule(false, Who::All, Access::Both, "$SYS/#"),
            ]
        );
        assert_eq!(parse_acl("").unwrap(), Acl::default());
    }

    #[test]
    fn a_wrong_rule_is_told_with_its_line() {
        for (text, line, expected) in [
            (
                "[[rule]]\nallow = true\nfilter = \"a\"\n\n[[rule]]\nallow = true\nfilter = \"a/#/b\"",
                5,
                "number 2: filter = \"a/#/b\"",
            ),
            ("[[rule]]\nallow = true\nfilter = \"$share/g/a\"", 1, "leave $share/GROUP/ out"),
            ("[[rule]]\nallow = true\nfilter = \"dev/x%c\"", 1, "stand for a whole level"),
            ("[[rule]]\nallow = true\nuser = \"a\"\ngroup = \"b\"\nfilter = \"a\"", 1, "write two rules"),
            ("[[rule]]\nallow = true\nuser = \"\"\nfilter = \"a\"", 1, "name is empty"),
            ("[[rule]]\nallow = true\nfilter = \"a\"\nfiler = \"b\"", 4, "unknown field `filer`"),
            ("[[rule]]\nallow = \"yes\"\nfilter = \"a\"", 2, "expected a boolean"),
            ("[[rule]]\nfilter = \"a\"", 1, "missing field `allow`"),
            ("[[rule]]\nallow = true", 1, "missing field `filter`"),
            ("[[rule]]\nallow = true\nfilter = \"a\"\naccess = \"read\"", 4, "unknown variant `read`"),
            ("\n[[rules]]\nallow = true", 2, "unknown field `rules`"),
            ("[[rule]\n", 1, ""),
        ] {
            let (at, what) = parse_acl(text).unwrap_err();
            assert!(what.contains(expected), "{text}\n got {what}");
            assert_eq!(1 + text[..at].matches('\n').count(), line, "{text}: {what}");
        }
        let many = "[[rule]]\nallow = true\nfilter = \"a\"\n".repeat(RULES_MAX + 1);
        assert!(parse_acl(&many).unwrap_err().1.contains("at most 10000"));
    }

    #[test]
    fn own_rules_are_bounded_and_about_their_bearer() {
        let parse = |text: &str| own_rules(serde_json::from_str(text).unwrap());
        let rules = parse(r#"[{"allow": true, "access": "publish", "filter": "a/%c"}]"#).unwrap();
        assert_eq!((rules[0].who.clone(), rules[0].access), (Who::All, Access::Publish));
        assert!(parse(r#"[{"allow": true, "filter": ""}]"#).is_err());
        let many = format!("[{}]", vec![r#"{"allow":true,"filter":"a"}"#; OWN_RULES_MAX + 1].join(","));
        assert!(parse(&many).unwrap_err().contains("at most 256"));
        assert!(
            serde_json::from_str::<Vec<OwnRuleText>>(r#"[{"allow":true,"filter":"a","user":"b"}]"#).is_err()
        );
    }

    #[test]
    fn the_shipped_rules_are_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/acl.toml");
        assert!(!read_acl(&path).unwrap().rules.is_empty());
    }
}
