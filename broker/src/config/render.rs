//! Writes a configuration as TOML: the documented reference, or the one in force.

use std::fmt::Write;

use toml::{Table, Value};

use super::{
    CONVERSATION_DOC, CONVERSATION_KEYS, Config, ConversationRule, KEYS, Loaded, SECTIONS, load::Origin,
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
        for (i, rule) in self.config.conversation.iter().enumerate() {
            let origin = self.origins.get("conversation").filter(|_| i == 0);
            let origin = origin.map_or(String::new(), |origin| format!(" # {origin}"));
            writeln!(out, "\n[[conversation]]{origin}").expect("writing to a String");
            conversation(&mut out, rule);
        }
        out
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
