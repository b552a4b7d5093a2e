//! The users file: who exists, what proves it, which groups and bounds they have.
//!
//! ```toml
//! [users]
//! alice = { password = "$argon2id$...", scram = "SCRAM-SHA-256$...", groups = ["drivers"], limits = "small" }
//! bob = { password = "$argon2id$...", disabled = true }
//!
//! [limits.small]
//! queue_messages_max = 100
//! ```
//! A user is one line, so that `postrider passwd` can change it and leave everything else as it is.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use engine::SessionLimits;
use protocol::ByteString;
use serde::Deserialize;
use toml::Spanned;

use super::{
    password::{COST, Cost, PasswordHash},
    rules::LimitsText,
    scram::{self, Credentials},
    secret::{Fingerprint, ProcessKey},
    text_file::{TextFile, place},
};

/// Bytes of a user's or group's name.
pub(crate) const NAME_BYTES_MAX: usize = 1_024;

/// Groups of one user.
pub(crate) const GROUPS_MAX: usize = 256;

/// Users of one file.
const USERS_MAX: usize = 1_000_000;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsersText {
    #[serde(default)]
    pub(super) users: BTreeMap<String, Spanned<UserText>>,
    #[serde(default)]
    limits: BTreeMap<String, LimitsText>,
}

/// One user as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserText {
    pub(super) password: Option<String>,
    pub(super) scram: Option<String>,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    pub(super) limits: Option<String>,
    #[serde(default)]
    pub(super) disabled: bool,
}

/// One user.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// What the password is checked with; `None` is a user who has none, known by a certificate for instance.
    pub(crate) password: Option<PasswordHash>,
    pub(crate) scram: Option<Credentials>,
    pub(crate) groups: Arc<[ByteString]>,
    pub(crate) limits: SessionLimits,
    pub(crate) disabled: bool,
    /// Says whether what proves the user is still the same.
    pub(crate) proof: Fingerprint,
}

/// All users.
pub(crate) struct Users {
    users: HashMap<ByteString, Arc<User>>,
    /// A hash that costs what most users' do.
    nobody: PasswordHash,
    nobody_iterations: u32,
    /// Makes the salts of users that do not exist. It is the same after a restart as long as the first user is,
    /// so that a salt that changes tells nobody which users are real.
    nobody_key: ProcessKey,
}

impl Users {
    /// Reads a users file; `key` makes the fingerprints.
    ///
    /// # Errors
    /// It cannot be read or is wrong; the message has file and line.
    pub(crate) fn read(path: &Path, key: &ProcessKey) -> Result<Self, String> {
        let TextFile { text, .. } = TextFile::read(path)?;
        Self::parse(&text, key).map_err(|(at, what)| format!("{}: {what}", place(path, &text, at)))
    }

    fn parse(text: &str, key: &ProcessKey) -> Result<Self, (usize, String)> {
        let UsersText { users, limits } = parse_text(text)?;
        if users.len() > USERS_MAX {
            return Err((0, format!("{} users, at most {USERS_MAX} are taken", users.len())));
        }
        let first = users.values().find_map(|user| user.get_ref().scram.clone());
        let nobody_key = match first {
            Some(secret) => ProcessKey::from_secret(secret.as_bytes()),
            None => ProcessKey::new().map_err(|what| (0, what))?,
        };
        let users = users
            .into_iter()
            .map(|(name, user)| {
                let at = user.span().start;
                let user = User::new(&name, user.into_inner(), &limits, key)
                    .map_err(|what| (at, format!("user {name:?}: {what}")))?;
                Ok((ByteString::from(name), Arc::new(user)))
            })
            .collect::<Result<HashMap<_, _>, _>>()?;
        let costs = users.values().filter_map(|user| user.password.as_ref()).map(PasswordHash::cost);
        let nobody = PasswordHash::of_nobody(most::<Cost>(costs).unwrap_or(COST));
        let iterations = users.values().filter_map(|user| user.scram.as_ref()).map(Credentials::iterations);
        let nobody_iterations = most(iterations).unwrap_or(scram::ITERATIONS);
        Ok(Self { users, nobody, nobody_iterations, nobody_key })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Returns a hash that no password has, for users that do not exist.
    pub(crate) fn nobody(&self) -> &PasswordHash {
        &self.nobody
    }
}

impl scram::Lookup for Users {
    fn credentials(&self, user: &str) -> Option<Credentials> {
        self.get(user).filter(|user| !user.disabled).and_then(|user| user.scram.clone())
    }

    fn of_nobody(&self) -> (&ProcessKey, u32) {
        (&self.nobody_key, self.nobody_iterations)
    }
}

impl User {
    fn new(
        name: &str,
        text: UserText,
        classes: &BTreeMap<String, LimitsText>,
        key: &ProcessKey,
    ) -> Result<Self, String> {
        check_name(name)?;
        let UserText { password, scram, groups, limits, disabled } = text;
        let proof = [&password, &scram].map(|text| text.as_deref().unwrap_or_default().as_bytes());
        let proof = key.fingerprint(&proof);
        if groups.len() > GROUPS_MAX {
            return Err(format!("{} groups, at most {GROUPS_MAX} are taken", groups.len()));
        }
        for group in &groups {
            check_name(group).map_err(|what| format!("group {group:?}: {what}"))?;
        }
        let password =
            password.map(|text| PasswordHash::parse(&text).map_err(|what| format!("password {what}")));
        let scram = scram.map(|text| Credentials::parse(&text).map_err(|what| format!("scram {what}")));
        let limits = match limits {
            None => SessionLimits::default(),
            Some(class) => match classes.get(&class) {
                Some(limits) => limits.limits(),
                None => return Err(format!("limits = {class:?}, but there is no [limits.{class}]")),
            },
        };
        Ok(Self {
            password: password.transpose()?,
            scram: scram.transpose()?,
            groups: groups.into_iter().map(ByteString::from).collect(),
            limits,
            disabled,
            proof,
        })
    }
}

pub(super) fn parse_text(text: &str) -> Result<UsersText, (usize, String)> {
    toml::from_str(text).map_err(|error| {
        let message = error.message();
        // "invalid type: string "hunter2", expected ..." repeats what stands there, which may be a password.
        let what = match message.rsplit_once(", expected ") {
            Some((head, expected)) if head.starts_with("invalid ") => {
                format!("wrong value, expected {expected}")
            }
            _ => message.to_owned(),
        };
        (error.span().map_or(0, |span| span.start), what)
    })
}

/// Says why a name can be no user's or group's.
///
/// # Errors
/// It is empty, too long, has control characters or is one of anonymous clients.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("the name has {} bytes, at most {NAME_BYTES_MAX} are taken", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err("the name has control characters".to_owned());
    }
    if name.starts_with("anon:") {
        return Err("names that start with anon: are those of anonymous clients".to_owned());
    }
    Ok(())
}

/// Returns what occurs most often.
fn most<T: std::hash::Hash + Eq + Copy>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: HashMap<T, usize> = HashMap::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(item, _)| item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::Lookup;

    const HASH: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn parse(text: &str) -> Result<Users, (usize, String)> {
        Users::parse(text, &ProcessKey::from_secret(b"test"))
    }

    #[test]
    fn users_have_passwords_groups_and_bounds() {
        let text = format!(
            "[users]\nalice = {{ password = \"{HASH}\", groups = [\"a\", \"b\"], limits = \"small\" }}\n\
             \"b o b\" = {{ disabled = true }}\n[limits.small]\nqueue_messages_max = 7\non_full = \"reject\"\n"
        );
        let users = parse(&text).unwrap();
        let alice = users.get("alice").unwrap();
        assert!(alice.password.as_ref().unwrap().verify(b"password"));
        assert_eq!(&alice.groups[..], ["a", "b"].map(ByteString::from_static));
        assert_eq!(alice.limits.queue_messages_max, Some(7));
        assert_eq!(alice.limits.on_full, Some(engine::OnFull::Reject));
        assert!(users.get("b o b").unwrap().disabled);
        assert_eq!(users.nobody().cost().memory_kib, 65_536, "unknown users cost what known ones do");
        assert!(users.credentials("alice").is_none());
        assert_eq!(parse("").unwrap().len(), 0);
    }

    #[test]
    fn a_wrong_users_file_is_told_with_its_line_and_without_hashes() {
        for (text, line, expected) in [
            ("[users]\n\na = { pasword = \"x\" }", 3, "unknown field `pasword`"),
            ("[users]\na = {}\na = {}", 3, "duplicate key"),
            ("[users]\na = { password = \"hunter2\" }", 2, "user \"a\": password is no argon2id hash"),
            ("[users]\na = \"hunter2\"", 2, "wrong value, expected struct UserText"),
            ("[users]\na = { disabled = \"hunter2\" }", 2, "wrong value, expected a boolean"),
            ("[users]\na = { scram = \"hunter2\" }", 2, "user \"a\": scram is no SCRAM credential"),
            ("[users]\na = {}\nb = { limits = \"x\" }", 3, "there is no [limits.x]"),
            ("[users]\n\"anon:x\" = {}", 2, "names that start with anon:"),
            ("[users]\n\"\" = {}", 2, "the name is empty"),
            ("[users]\n\"a\\u0007\" = {}", 2, "control characters"),
            ("[users]\na = { groups = [\"\"] }", 2, "group \"\": the name is empty"),
            ("[user]\na = {}", 1, "unknown field `user`"),
            ("[limits.x]\nqueue = 1", 2, "unknown field `queue`"),
        ] {
            let (at, what) = parse(text).map(|_| ()).unwrap_err();
            assert!(what.contains(expected) && !what.contains("hunter2"), "{text}\n got {what}");
            assert_eq!(1 + text[..at].matches('\n').count(), line, "{text}: {what}");
        }
    }

    #[test]
    fn the_fingerprint_changes_with_the_password_and_nothing_else() {
        let proof = |user: &str| parse(&format!("[users]\na = {user}")).unwrap().get("a").unwrap().proof;
        let with_password = format!("{{ password = \"{HASH}\" }}");
        let with_group = format!("{{ password = \"{HASH}\", groups = [\"g\"] }}");
        assert_eq!(proof(&with_password), proof(&with_group));
        assert_ne!(proof(&with_password), proof("{}"));
    }
}
