//! The topics the bridge listens to.

use crate::rules::Rules;

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic<'a> {
    /// The conversation.
    Dispatch,
    /// `dev/{device}/telemetry/gps`.
    Gps {
        /// The device.
        device: &'a str,
    },
    /// `dev/{device}/cmd/result`.
    Result {
        /// The device.
        device: &'a str,
    },
    /// `$im/receipts`.
    Receipts,
}

/// Returns the filters to subscribe to: those for commands only if there are any, the conversation if anything may be said in it.
pub(crate) fn filters(dispatch: &str, commands: bool, rules: &Rules) -> Vec<String> {
    let mut filters = vec!["dev/+/telemetry/gps".to_owned()];
    if commands || !rules.is_empty() {
        filters.push(dispatch.to_owned());
    }
    if commands {
        filters.extend(["dev/+/cmd/result".to_owned(), "$im/receipts".to_owned()]);
    }
    for filter in rules.filters() {
        if !filters.iter().any(|known| known == filter) {
            filters.push(filter.to_owned());
        }
    }
    filters
}

/// Tells what a topic is.
pub(crate) fn parse<'a>(topic: &'a str, dispatch: &str) -> Option<Topic<'a>> {
    if topic == dispatch {
        return Some(Topic::Dispatch);
    }
    if topic == "$im/receipts" {
        return Some(Topic::Receipts);
    }
    let (device, rest) = topic.strip_prefix("dev/")?.split_once('/')?;
    match rest {
        "telemetry/gps" => Some(Topic::Gps { device }),
        "cmd/result" => Some(Topic::Result { device }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_told_apart() {
        for (topic, want) in [
            ("im/dispatch", Some(Topic::Dispatch)),
            ("$im/receipts", Some(Topic::Receipts)),
            ("dev/truck-7/telemetry/gps", Some(Topic::Gps { device: "truck-7" })),
            ("dev/truck-7/cmd/result", Some(Topic::Result { device: "truck-7" })),
            ("dev/truck-7/cmd", None),
            ("dev/truck-7/telemetry/gps/x", None),
            ("dev/a/b/telemetry/gps", None),
            ("im/other", None),
        ] {
            assert_eq!(parse(topic, "im/dispatch"), want, "{topic}");
        }
    }

    #[test]
    fn a_bridge_without_commands_does_not_read_the_conversation() {
        assert_eq!(filters("im/dispatch", false, &Rules::default()), ["dev/+/telemetry/gps"]);
        assert_eq!(filters("im/dispatch", true, &Rules::default()).len(), 4);
    }
}
