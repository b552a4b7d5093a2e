//! Merges defaults, file, environment and flags, and says where each value came from.
//!
//! A value is checked when it is set, alone, against the defaults: so an error is blamed on the
//! place that said it, whatever the other layers say.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use protocol::TopicFilter;
use serde::Deserialize;
use toml::{Table, Value, de::DeTable};

use super::{
    CONVERSATION_KEYS, CONVERSATIONS_RULES_MAX, Config, ConfigError, ConversationRule, KEYS, Key,
    ListenAddress, Problem, SECTIONS,
    bounds::{self, BOUND_KEYS, USER_LIMITS_MAX},
    error::nearest,
    listener::{self, LISTENER_KEYS, LISTENERS_MAX},
};

/// What the names of all environment variables of the configuration start with.
pub(super) const ENV_PREFIX: &str = "POSTRIDER_";

/// A configuration file is at most this long.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A text is at most this long: the longest that a packet of MQTT carries is not much more.
const TEXT_BYTES_MAX: usize = 32_768;

/// A list of tables; its key stands in no section.
struct List {
    name: &'static str,
    /// What its entries are, and one of them in a line.
    of: &'static str,
    example: &'static str,
    /// Several of them as an environment variable has them.
    env_example: &'static str,
    entries_max: usize,
    /// Says what is wrong with an entry.
    check: fn(&Table) -> Result<(), String>,
}

const LISTS: [List; 3] = [
    List {
        name: "listener",
        of: "listeners",
        example: "name = \"tls\"",
        env_example: "[{name = \"local\", transport = \"unix\", listen = \"./mqtt.sock\"}]",
        entries_max: LISTENERS_MAX,
        check: check_listener,
    },
    List {
        name: "user_limit",
        of: "bounds of users",
        example: "user = \"ann\"",
        env_example: "[{user = \"ann\", messages_per_s = 100}]",
        entries_max: USER_LIMITS_MAX,
        check: check_user_limit,
    },
    List {
        name: "conversation",
        of: "rules",
        example: "filter = \"im/#\"",
        env_example: "[{filter = \"im/#\"}, {filter = \"dev/+/cmd\"}]",
        entries_max: CONVERSATIONS_RULES_MAX,
        check: check_conversation,
    },
];

impl List {
    fn named(name: &str) -> Option<&'static Self> {
        LISTS.iter().find(|list| list.name == name)
    }
}

/// Where settings come from, lowest priority first; defaults lie below all.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are ignored.
    pub env: Vec<(String, String)>,
    /// Command line flags.
    pub flags: Vec<FlagValue>,
}

/// A flag that sets one key.
#[derive(Clone, Debug)]
pub struct FlagValue {
    /// The flag as typed, `--listen`.
    pub flag: &'static str,
    /// The key it sets, `mqtt.listen`.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 is the file as a whole.
        line: usize,
    },
    /// In an environment variable.
    Env(String),
    /// In a command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A checked configuration and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Origins of the values that are not defaults, by `section.key` (or `listener`, `conversation`).
    pub origins: BTreeMap<String, Origin>,
}

impl Sources {
    /// Takes the variables of this process's environment; names and values that are no UTF-8 are left out.
    pub fn with_process_env(mut self) -> Self {
        self.env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        self
    }

    /// Adds a flag that was given.
    pub fn flag(mut self, flag: &'static str, key: &'static str, value: Option<String>) -> Self {
        self.flags.extend(value.map(|value| FlagValue { flag, key, value }));
        self
    }

    /// Merges and checks all layers.
    ///
    /// # Errors
    /// Something is wrong; all problems are told, not only the first.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut merge = Merge::new();
        if let Some(path) = &self.file {
            merge.file(path);
        }
        let mut env: Vec<_> = self.env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        env.sort();
        for (name, value) in env {
            merge.env(name, value);
        }
        for FlagValue { flag, key, value } in &self.flags {
            let key = KEYS.iter().find(|k| k.path() == *key).expect("flags name known keys");
            merge.set_text(key, value, Origin::Flag(flag));
        }
        merge.finish()
    }
}

/// The layers merged so far.
struct Merge {
    defaults: Table,
    merged: Table,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Merge {
    fn new() -> Self {
        let defaults = Table::try_from(Config::default()).expect("the defaults are TOML");
        Self { merged: defaults.clone(), defaults, origins: BTreeMap::new(), problems: Vec::new() }
    }

    fn problem(&mut self, origin: Origin, what: String) {
        self.problems.push(Problem { origin, what });
    }

    fn file(&mut self, path: &Path) {
        let whole = Origin::File { path: path.to_owned(), line: 0 };
        let text = match read(path) {
            Ok(text) => text,
            Err(what) => return self.problem(whole, what),
        };
        let at = |span: std::ops::Range<usize>| Origin::File {
            path: path.to_owned(),
            line: 1 + text[..span.start.min(text.len())].matches('\n').count(),
        };
        let parsed =
            DeTable::parse(&text).and_then(|spans| Ok((spans.into_inner(), toml::from_str::<Table>(&text)?)));
        let (spans, values) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                let origin = error.span().map_or(whole, at);
                return self.problem(origin, format!("not valid TOML: {}", error.message()));
            }
        };
        for (name, span) in &spans {
            let (key_span, name) = (name.span(), name.get_ref().as_ref());
            let value = &values[name];
            match (SECTIONS.iter().any(|(section, _)| *section == name), value) {
                (true, Value::Table(section)) => {
                    let spans = span.get_ref().as_table().expect("both parses agree");
                    for (key_name, _) in spans {
                        let origin = at(key_name.span());
                        let key_name = key_name.get_ref().as_ref();
                        self.set(name, key_name, &section[key_name], origin);
                    }
                }
                (true, other) => {
                    let what = format!(
                        "`{name}` is a section: write [{name}] on a line of its own, not {name} = {other}"
                    );
                    self.problem(at(key_span), what);
                }
                (false, value) => match List::named(name) {
                    Some(list) => self.set_list(list, value, at(key_span)),
                    None => {
                        let what = unknown_top_level(name, value.is_table());
                        self.problem(at(key_span), what);
                    }
                },
            }
        }
    }

    /// Variables with the prefix that have no `__` and are no setting belong to somebody else: container
    /// platforms make names like `POSTRIDER_PORT` for a service called postrider.
    fn env(&mut self, name: &str, text: &str) {
        let origin = Origin::Env(name.to_owned());
        let is_list = |list: &&List| name == format!("{ENV_PREFIX}{}", list.name.to_uppercase());
        if let Some(list) = LISTS.iter().find(is_list) {
            return match toml::from_str::<Table>(&format!("value = {text}")) {
                Ok(table) => self.set_list(list, &table["value"], origin),
                Err(_) => self.problem(
                    origin,
                    format!("{text:?} is not a TOML array of tables such as {}", list.env_example),
                ),
            };
        }
        if let Some(key) = KEYS.iter().find(|key| key.env() == name) {
            return self.set_text(key, text, origin);
        }
        if name.contains("__") {
            let names: Vec<_> = KEYS.iter().map(Key::env).collect();
            let hint = nearest_env(name, &names).unwrap_or_else(|| {
                "; `postrider config print` lists every key, the variable is POSTRIDER_SECTION__KEY"
                    .to_owned()
            });
            self.problem(origin, format!("no such setting{hint}"));
        }
    }

    /// Sets a key from text without a type of its own: it is read as what the default is.
    fn set_text(&mut self, key: &Key, text: &str, origin: Origin) {
        let value = match &self.defaults[key.section][key.name] {
            Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
            Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
            Value::Array(_) => toml::from_str::<Table>(&format!("value = {text}"))
                .ok()
                .and_then(|mut table| table.remove("value")),
            _ => None,
        };
        let value = value.unwrap_or_else(|| Value::String(text.to_owned()));
        self.set(key.section, key.name, &value, origin);
    }

    fn set(&mut self, section: &str, name: &str, value: &Value, origin: Origin) {
        let Some(key) = KEYS.iter().find(|key| key.section == section && key.name == name) else {
            let what = unknown_key(section, name);
            return self.problem(origin, what);
        };
        match self.check(key, value) {
            Ok(()) => {
                self.merged[section][name] = value.clone();
                self.origins.insert(key.path(), origin);
            }
            Err(what) => self.problem(origin, what),
        }
    }

    fn check(&self, key: &Key, value: &Value) -> Result<(), String> {
        let (path, default) = (key.path(), &self.defaults[key.section][key.name]);
        if !default.same_type(value) {
            let kind = if default.is_integer() {
                "a whole number"
            } else if default.is_bool() {
                "true or false"
            } else if default.is_array() {
                "a list of texts"
            } else {
                "a text in quotes"
            };
            return Err(format!("{path} = {value} is not {kind} (the default is {default})"));
        }
        if let (Value::Integer(number), Some((min, max))) = (value, key.range)
            && !u64::try_from(*number).is_ok_and(|number| (min..=max).contains(&number))
        {
            return Err(format!("{path} = {number} is out of range, allowed are {min} to {max}"));
        }
        if let Value::String(text) = value
            && (text.len() > TEXT_BYTES_MAX || text.contains('\0'))
        {
            return Err(format!(
                "{path} has {} bytes or a null character, allowed are {TEXT_BYTES_MAX}",
                text.len()
            ));
        }
        let is_empty = |value: &Value| value.as_str().is_some_and(str::is_empty);
        if is_empty(value) && !is_empty(default) {
            return Err(format!("{path} is empty (the default is {default})"));
        }
        let mut probe = self.defaults.clone();
        probe[key.section][key.name] = value.clone();
        Config::deserialize(Value::Table(probe))
            .map(drop)
            .map_err(|error| format!("{path} = {value}: {}", error.message()))
    }

    fn set_list(&mut self, list: &List, value: &Value, origin: Origin) {
        let (name, before) = (list.name, self.problems.len());
        let Some(entries) = value.as_array().filter(|entries| entries.iter().all(Value::is_table)) else {
            let what =
                format!("`{name}` is a list of {}: write [[{name}]] with {} below it", list.of, list.example);
            return self.problem(origin, what);
        };
        if entries.len() > list.entries_max {
            let what = format!("{} [[{name}]] {}, allowed are {}", entries.len(), list.of, list.entries_max);
            self.problem(origin.clone(), what);
        }
        for (i, entry) in entries.iter().enumerate() {
            if let Err(what) = (list.check)(entry.as_table().expect("checked above")) {
                self.problem(origin.clone(), format!("[[{name}]] number {}: {what}", i + 1));
            }
        }
        if self.problems.len() == before {
            self.merged.insert(name.to_owned(), value.clone());
            self.origins.insert(name.to_owned(), origin);
        }
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        let config = match Config::deserialize(Value::Table(self.merged.clone())) {
            Ok(config) => Config { http_is_optional: !self.origins.contains_key("http.listen"), ..config },
            Err(error) => {
                self.problem(Origin::Default, error.message().to_owned());
                return Err(ConfigError { problems: self.problems });
            }
        };
        self.check_together(&config);
        if self.problems.is_empty() {
            Ok(Loaded { config, origins: self.origins })
        } else {
            Err(ConfigError { problems: self.problems })
        }
    }

    /// Checks that there is a way in, that each has its own address, and that names are used once.
    fn check_addresses(&mut self, config: &Config) {
        let origin = |merge: &Self, keys: &[&str]| {
            keys.iter().find_map(|key| merge.origins.get(*key).cloned()).unwrap_or(Origin::Default)
        };
        let addresses = addresses(config);
        for (i, (key, setting, address)) in addresses.iter().enumerate() {
            if let Some((first_key, first_setting, _)) =
                addresses[..i].iter().find(|other| other.2 == *address)
            {
                let what = format!("{first_key} and {key} are both {address}");
                self.problem(origin(self, &[first_setting, setting]), what);
            }
        }
        for (i, listener) in config.listener.iter().enumerate() {
            if config.listener[..i].iter().any(|other| other.name == listener.name) {
                let what = format!("two [[listener]] are named {:?}", listener.name);
                self.problem(origin(self, &["listener"]), what);
            }
        }
        if !config.mqtt.enabled && config.listener.is_empty() {
            let what = "mqtt.enabled = false and no [[listener]]: no client could connect";
            self.problem(origin(self, &["mqtt.enabled"]), what.to_owned());
        }
    }

    /// Checks what no setting says alone.
    fn check_together(&mut self, config: &Config) {
        let mqtt = &config.mqtt;
        let (low, high, max) =
            (u64::from(mqtt.unsent_bytes_low), u64::from(mqtt.unsent_bytes_high), mqtt.unsent_bytes_max);
        let pairs = [
            (("mqtt.unsent_bytes_low", low), ("mqtt.unsent_bytes_high", high)),
            (("mqtt.unsent_bytes_high", high), ("mqtt.unsent_bytes_max", max)),
            (
                ("mqtt.packet_bytes_max", u64::from(mqtt.packet_bytes_max)),
                ("queue.bytes_max", config.queue.bytes_max),
            ),
            (
                ("im.keepalive_min_s", u64::from(config.im.keepalive_min_s)),
                ("im.keepalive_max_s", u64::from(config.im.keepalive_max_s)),
            ),
        ];
        self.check_addresses(config);
        for ((small_key, small), (large_key, large)) in pairs {
            if small > large {
                let origin =
                    [small_key, large_key].into_iter().find_map(|key| self.origins.get(key).cloned());
                let what = format!("{small_key} = {small} must not be above {large_key} = {large}");
                self.problem(origin.unwrap_or(Origin::Default), what);
            }
        }
    }
}

/// Where a configuration listens, by the key that says it.
fn addresses(config: &Config) -> Vec<(String, &'static str, String)> {
    let mut all = Vec::new();
    if config.mqtt.enabled && config.mqtt.listen.port() != 0 {
        all.push(("mqtt.listen".to_owned(), "mqtt.listen", config.mqtt.listen.to_string()));
    }
    if config.http.enabled && config.http.listen.port() != 0 {
        all.push(("http.listen".to_owned(), "http.listen", config.http.listen.to_string()));
    }
    for listener in &config.listener {
        if !matches!(&listener.listen, ListenAddress::Ip(address) if address.port() == 0) {
            let key = format!("`listen` of [[listener]] {:?}", listener.name);
            all.push((key, "listener", listener.listen.to_string()));
        }
    }
    all
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::metadata(path).map_err(|e| format!("cannot read it: {e}"))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{bytes} bytes are no configuration file, allowed are {FILE_BYTES_MAX}"));
    }
    std::fs::read_to_string(path).map_err(|e| format!("cannot read it: {e}"))
}

fn check_listener(entry: &Table) -> Result<(), String> {
    check_keys(entry, LISTENER_KEYS.iter().map(|key| key.name))?;
    listener::check(entry).map(drop)
}

fn check_user_limit(entry: &Table) -> Result<(), String> {
    let own = ["user", "group"];
    check_keys(entry, own.into_iter().chain(BOUND_KEYS.iter().map(|key| key.name)))?;
    bounds::check_user_limit(entry)
}

fn check_keys<'a>(entry: &Table, known: impl Iterator<Item = &'a str> + Clone) -> Result<(), String> {
    for name in entry.keys() {
        if !known.clone().any(|known| known == name) {
            return Err(format!("unknown key `{name}`{}", suggestion(name, known, |n| format!("`{n}`"))));
        }
    }
    Ok(())
}

fn check_conversation(rule: &Table) -> Result<(), String> {
    check_keys(rule, CONVERSATION_KEYS.iter().map(|(name, _)| *name))?;
    let Some(filter) = rule.get("filter") else {
        return Err("`filter` is missing, for instance filter = \"im/#\"".to_owned());
    };
    let Some(text) = filter.as_str() else {
        return Err(format!("filter = {filter} is not a text in quotes, for instance \"im/#\""));
    };
    let parsed =
        TopicFilter::parse(text.into()).map_err(|error| format!("filter = {text:?} is invalid: {error}"))?;
    if parsed.share.is_some() || text.starts_with('$') {
        return Err(format!("filter = {text:?} is invalid: topics that start with $ are no conversations"));
    }
    ConversationRule::deserialize(Value::Table(rule.clone())).map(drop).map_err(|e| e.message().to_owned())
}

fn unknown_key(section: &str, name: &str) -> String {
    let known = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    format!("unknown key `{name}` in [{section}]{}", suggestion(name, known, |n| format!("`{n}`")))
}

fn unknown_top_level(name: &str, is_table: bool) -> String {
    let sections = SECTIONS.iter().map(|(section, _)| *section).chain(LISTS.iter().map(|list| list.name));
    if is_table {
        return format!("unknown section [{name}]{}", suggestion(name, sections, |n| format!("[{n}]")));
    }
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("`{name}` stands outside a section, it belongs below [{}]", key.section);
    }
    format!(
        "unknown key `{name}` outside a section{}",
        suggestion(name, KEYS.iter().map(|key| key.name), |n| format!("`{n}`"))
    )
}

fn suggestion<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    quote: impl Fn(&str) -> String,
) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!(", did you mean {}?", quote(near)),
        None => format!(", known are {}", known.map(quote).collect::<Vec<_>>().join(", ")),
    }
}

fn nearest_env(name: &str, names: &[String]) -> Option<String> {
    let lower: Vec<_> = names.iter().map(|name| name.to_lowercase()).collect();
    let near = nearest(name, lower.iter().map(String::as_str))?;
    Some(format!(", did you mean {}?", near.to_uppercase()))
}
