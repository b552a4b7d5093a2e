//! Writes a configuration as TOML: the documented reference, or the one in force.

use std::fmt::Write;

use toml::{Table, Value};

use super::{
    CONVERSATION_DOC, CONVERSATION_KEYS, Config, ConversationRule, KEYS, LISTENER_DOC, ListenerConfig,
    Loaded, SECTIONS,
    bounds::{BOUND_KEYS, USER_LIMIT_DOC},
    listener::LISTENER_KEYS,
    load::Origin,
};

const HEAD: &str = "\
# Postrider's settings, each with its default. Every line may be left out; unknown keys are errors.
# Sizes are bytes and times seconds where the name ends so. In rising priority a setting comes from its
# default, this file (--config FILE), the environment (variable named with each key) and the flags
# --listen (mqtt.listen), --http (http.listen) and --data-dir (store.data_dir).
";

/// Returns `configs/postrider.toml`: every setting with its documentation and default.
pub fn reference() -> String {
    let defaults = Config::default();
    let table = Table::try_from(&defaults).expect("the defaults are TOML");
    let mut out = HEAD.to_owned();
    for (section, section_doc) in SECTIONS {
        out.push('\n');
        comment(&mut out, section_doc);
        writeln!(out, "[{section}]").expect("writing to a String");
        for key in KEYS.iter().filter(|key| key.section == *section) {
            comment(&mut out, key.doc);
            match key.range {
                Some((min, max)) => writeln!(out, "# {min} to {max}; {}", key.env()),
                None => writeln!(out, "# {}", key.env()),
            }
            .expect("writing to a String");
            setting(&mut out, key.name, &table[*section][key.name], None);
        }
    }
    out.push('\n');
    comment(&mut out, LISTENER_DOC);
    out.push_str("#[[listener]]\n");
    for key in LISTENER_KEYS {
        comment(&mut out, key.doc);
        let of: Vec<_> = key.of.iter().map(|transport| format!("{:?}", transport.to_string())).collect();
        let range = key.range.map(|(min, max)| format!("{min} to {max}"));
        let of = (!of.is_empty()).then(|| format!("transport {}", of.join(", ")));
        let notes: Vec<_> = [range, of].into_iter().flatten().collect();
        if !notes.is_empty() {
            writeln!(out, "# {}", notes.join("; ")).expect("writing to a String");
        }
        writeln!(out, "#{} = {}", key.name, key.example).expect("writing to a String");
    }
    out.push('\n');
    comment(&mut out, USER_LIMIT_DOC);
    out.push_str("#[[user_limit]]\n#user = \"ann\"\n");
    for key in BOUND_KEYS {
        comment(&mut out, key.doc);
        if let Some((min, max)) = key.range {
            writeln!(out, "# {min} to {max}").expect("writing to a String");
        }
        writeln!(out, "#{} = {}", key.name, key.example).expect("writing to a String");
    }
    out.push('\n');
    comment(&mut out, CONVERSATION_DOC);
    for (i, rule) in defaults.conversation.iter().enumerate() {
        out.push_str("[[conversation]]\n");
        if i == 0 {
            CONVERSATION_KEYS.iter().for_each(|(_, doc)| comment(&mut out, &[doc]));
        }
        conversation(&mut out, rule);
    }
    out
}

impl Loaded {
    /// Returns the configuration in force as TOML; each value that is no default says where it comes from.
    pub fn to_toml(&self) -> String {
        let table = Table::try_from(&self.config).expect("every Config is TOML");
        let mut out = String::new();
        for (section, _) in SECTIONS {
            if !out.is_empty() {
                out.push('\n');
            }
            writeln!(out, "[{section}]").expect("writing to a String");
            for key in KEYS.iter().filter(|key| key.section == *section) {
                setting(&mut out, key.name, &table[*section][key.name], self.origins.get(&key.path()));
            }
        }
        if self.config.conversation.is_empty() {
            // A list without rules has no [[conversation]] line; the key must stand before any section.
            out.insert_str(0, "conversation = []\n\n");
        }
        for (i, config) in self.config.listener.iter().enumerate() {
            self.entry_head(&mut out, "listener", i);
            listener(&mut out, config);
        }
        for (i, limit) in self.config.user_limit.iter().enumerate() {
            self.entry_head(&mut out, "user_limit", i);
            out.push_str(&toml::to_string(limit).expect("every limit is TOML"));
        }
        for (i, rule) in self.config.conversation.iter().enumerate() {
            self.entry_head(&mut out, "conversation", i);
            conversation(&mut out, rule);
        }
        out
    }

    fn entry_head(&self, out: &mut String, list: &str, i: usize) {
        let origin = self.origins.get(list).filter(|_| i == 0);
        let origin = origin.map_or(String::new(), |origin| format!(" # {origin}"));
        writeln!(out, "\n[[{list}]]{origin}").expect("writing to a String");
    }
}

fn comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        writeln!(out, "#{line}").expect("writing to a String");
    }
}

fn setting(out: &mut String, name: &str, value: &Value, origin: Option<&Origin>) {
    match origin {
        Some(origin) => writeln!(out, "{name} = {value} # {origin}"),
        None => writeln!(out, "{name} = {value}"),
    }
    .expect("writing to a String");
}

fn conversation(out: &mut String, rule: &ConversationRule) {
    let table = Table::try_from(rule).expect("every rule is TOML");
    for (name, _) in CONVERSATION_KEYS {
        if let Some(value) = table.get(*name) {
            setting(out, name, value, None);
        }
    }
}

/// Writes what an entry says; what it does not say is left out, as settings of other transports must be.
fn listener(out: &mut String, config: &ListenerConfig) {
    let table = Table::try_from(config).expect("every listener is TOML");
    let defaults = Table::try_from(ListenerConfig::default()).expect("the defaults are TOML");
    for key in LISTENER_KEYS {
        let is_required = matches!(key.name, "name" | "transport" | "listen");
        if let Some(value) = table.get(key.name)
            && (is_required || defaults.get(key.name) != Some(value))
        {
            setting(out, key.name, value, None);
        }
    }
}
