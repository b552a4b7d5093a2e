//! Which topics a filter means.

/// Says whether a filter means a topic, both valid (section 4.7): for programs that give messages to the part that wants them.
/// Of a shared subscription's filter its group does not count.
///
/// ```
/// use device_sdk::topic_matches;
/// assert!(topic_matches("dev/+/cmd", "dev/truck-7/cmd"));
/// assert!(topic_matches("dev/truck-7/#", "dev/truck-7") && topic_matches("$share/office/dev/#", "dev/truck-7/log"));
/// assert!(!topic_matches("dev/+", "dev/truck-7/cmd"));
/// // [MQTT-4.7.2-1]
/// assert!(!topic_matches("#", "$SYS/broker/uptime"));
/// ```
pub fn topic_matches(filter: &str, topic: &str) -> bool {
    let filter = match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((_, shared)) => shared,
        None => filter,
    };
    protocol::filter_matches(filter, topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The standard's own examples (4.7.1.2, 4.7.1.3, 4.7.2), and what is easily wrong.
    #[test]
    fn filters_mean_what_the_standard_says() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport", true),
            ("#", "/", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("sport", "Sport", false),
            ("sport/tennis", "sport", false),
            ("sport", "sport/tennis", false),
            ("$share/g/#", "$SYS/x", false),
            ("$share/g/$SYS/x", "$SYS/x", true),
            ("$share/g/sport/+", "sport/x", true),
        ] {
            assert_eq!(topic_matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
