//! Topic names and filters (MQTT 5.0 section 4.7) and shared subscriptions (section 4.8.2).
//!
//! Matching and checking are on a message's way: they go over the bytes once and allocate nothing.

mod algebra;

use bytestring::ByteString;

pub use algebra::{filter_covers, filters_overlap};

/// What the filter of a shared subscription starts with.
pub(crate) const SHARE_PREFIX: &str = "$share/";
/// Longest topic name or filter ([MQTT-4.7.3-3]).
const TOPIC_BYTES_MAX: usize = u16::MAX as usize;

/// Why a topic name is not allowed in a PUBLISH or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.what())]
pub enum TopicError {
    /// Zero length.
    Empty,
    /// Contains `+` or `#`.
    Wildcard,
    /// Contains U+0000.
    Null,
    /// Over 65,535 bytes.
    TooLong,
}

impl TopicError {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::Wildcard => "it contains a wildcard",
            Self::Null => "it contains the null character",
            Self::TooLong => "it is over 65,535 bytes",
        }
    }
}

/// Why a topic filter is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Zero length.
    #[error("it is empty")]
    Empty,
    /// `#` is not the last level, or a wildcard is not alone in its level.
    #[error("a wildcard is not alone in its level, or # is not the last level")]
    Wildcard,
    /// Contains U+0000.
    #[error("it contains the null character")]
    Null,
    /// Over 65,535 bytes.
    #[error("it is over 65,535 bytes")]
    TooLong,
    /// `$share` without a group name or filter, or with a wildcard in the group name.
    #[error(
        "a shared subscription is $share/GROUP/FILTER with a group of one or more characters other than / + #"
    )]
    Share,
}

/// A valid topic filter, shared prefix taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter {
    /// As the client sent it: what identifies the subscription.
    pub full: ByteString,
    /// The group of `$share/{group}/{filter}`.
    pub share: Option<ByteString>,
    /// What topics are matched against: the whole, or what follows the group.
    pub filter: ByteString,
}

impl TopicFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// It breaks section 4.7.1 or 4.8.2.
    pub fn parse(full: ByteString) -> Result<Self, FilterError> {
        // [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.7.3-3]
        if full.is_empty() {
            return Err(FilterError::Empty);
        }
        if full.len() > TOPIC_BYTES_MAX {
            return Err(FilterError::TooLong);
        }
        if full.as_bytes().contains(&0) {
            return Err(FilterError::Null);
        }
        let (share, filter) = match full.strip_prefix(SHARE_PREFIX) {
            Some(rest) => {
                let (group, filter) = split_share(rest)?;
                (Some(full.slice_ref(group)), full.slice_ref(filter))
            }
            None if &*full == "$share" => return Err(FilterError::Share),
            None => (None, full.clone()),
        };
        check_wildcards(&filter)?;
        Ok(Self { full, share, filter })
    }
}

/// Takes `{group}/{filter}` apart: [MQTT-4.8.2-1], [MQTT-4.8.2-2].
fn split_share(rest: &str) -> Result<(&str, &str), FilterError> {
    let (group, filter) = rest.split_once('/').ok_or(FilterError::Share)?;
    let nested = filter.starts_with(SHARE_PREFIX);
    if group.is_empty() || group.contains(['+', '#']) || filter.is_empty() || nested {
        return Err(FilterError::Share);
    }
    Ok((group, filter))
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2] (3.1.1) `#` last and alone; [MQTT-4.7.1-2], [MQTT-4.7.1-3] (3.1.1) `+` alone in its level.
fn check_wildcards(filter: &str) -> Result<(), FilterError> {
    let bytes = filter.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let ends = match byte {
            b'#' => at + 1 == bytes.len(),
            b'+' => at + 1 == bytes.len() || bytes[at + 1] == b'/',
            _ => continue,
        };
        let starts = at == 0 || bytes[at - 1] == b'/';
        if !(starts && ends) {
            return Err(FilterError::Wildcard);
        }
    }
    Ok(())
}

/// Checks a topic name.
///
/// # Errors
/// It breaks section 4.7.3 or has a wildcard.
#[inline]
pub fn validate_topic_name(name: &str) -> Result<(), TopicError> {
    if name.is_empty() {
        return Err(TopicError::Empty);
    }
    if name.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    // Without an early exit the loop runs on whole vectors of bytes.
    let suspect = name.bytes().fold(false, |found, byte| found | matches!(byte, 0 | b'+' | b'#'));
    if suspect { Err(name_error(name)) } else { Ok(()) }
}

#[cold]
fn name_error(name: &str) -> TopicError {
    if name.as_bytes().contains(&0) { TopicError::Null } else { TopicError::Wildcard }
}

/// Says whether `topic` matches `filter` (both valid), `$` rule included (section 4.7.2).
#[inline]
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    let (filter, topic) = (filter.as_bytes(), topic.as_bytes());
    // [MQTT-4.7.2-1]
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let mut at = 0;
    for (index, &byte) in filter.iter().enumerate() {
        match byte {
            b'#' => return true,
            // One level, which may be empty.
            b'+' => at += topic[at..].iter().take_while(|&&byte| byte != b'/').count(),
            _ if topic.get(at) == Some(&byte) => at += 1,
            // Section 4.7.1.2: `a/#` includes its parent `a`.
            _ => return at == topic.len() && &filter[index..] == b"/#",
        }
    }
    at == topic.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(filter: &str) -> Result<TopicFilter, FilterError> {
        TopicFilter::parse(filter.into())
    }

    #[test]
    fn filters_match_as_the_standards_examples_say() {
        // Sections 4.7.1 and 4.7.2
        for (filter, topic, matches) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/tennis/player1/#", "sport/tennis/player2", false),
            ("sport/tennis/player1/#", "sport/tennis/player10", false),
            ("sport/#", "sport", true),
            ("sport/#", "sport/", true),
            ("#", "sport", true),
            ("#", "/", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("+", "finance", true),
            ("+/#", "finance", true),
            ("+/#", "/", true),
            ("+/tennis/#", "sport/tennis", true),
            ("+/tennis/#", "sport/tennis/a/b", true),
            ("a/+/c", "a//c", true),
            ("a/+/c", "a/b/d", false),
            ("a/+/c", "a/b", false),
            ("a/b", "a/b", true),
            ("a/b", "a/b/", false),
            ("a/b/", "a/b", false),
            ("a/b", "a/bc", false),
            ("a/bc", "a/b", false),
            ("A", "a", false),
            ("车/+", "车/七", true),
        ] {
            assert_eq!(filter_matches(filter, topic), matches, "{filter} {topic}");
        }
    }

    #[test]
    fn a_leading_wildcard_does_not_match_a_topic_with_a_dollar() {
        // [MQTT-4.7.2-1]
        for (filter, topic, matches) in [
            ("#", "$SYS", false),
            ("#", "$SYS/broker", false),
            ("+", "$SYS", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS", true),
            ("$SYS/#", "$SYS/broker", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("$im/receipts", "$im/receipts", true),
            ("a/#", "a/$b", true),
            ("a/+", "a/$b", true),
        ] {
            assert_eq!(filter_matches(filter, topic), matches, "{filter} {topic}");
        }
    }

    #[test]
    fn valid_filters_parse() {
        for filter in
            ["#", "+", "/", "//", "a", "a/#", "+/+/#", "/+", "+/", "$SYS/#", "a b", "$shared/a", "车/+"]
        {
            let parsed = parse(filter).unwrap();
            assert_eq!((&*parsed.full, parsed.share, &*parsed.filter), (filter, None, filter));
        }
        for (filter, group, inner) in
            [("$share/g/#", "g", "#"), ("$share/g//a", "g", "/a"), ("$share/g g/a/+", "g g", "a/+")]
        {
            let parsed = parse(filter).unwrap();
            assert_eq!(
                (&*parsed.full, parsed.share.as_deref(), &*parsed.filter),
                (filter, Some(group), inner)
            );
        }
    }

    #[test]
    fn invalid_filters_do_not_parse() {
        use FilterError::{Empty, Null, Share, TooLong, Wildcard};
        for (filter, error) in [
            ("", Empty),                 // [MQTT-4.7.3-1]
            ("a\0", Null),               // [MQTT-4.7.3-2]
            ("sport/tennis#", Wildcard), // [MQTT-4.7.1-1]
            ("sport/tennis/#/ranking", Wildcard),
            ("##", Wildcard),
            ("#/", Wildcard),
            ("a#/b", Wildcard),
            ("sport+", Wildcard), // [MQTT-4.7.1-2]
            ("+a", Wildcard),
            ("a/+b/c", Wildcard),
            ("++", Wildcard),
            ("+#", Wildcard),
            ("$share", Share), // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
            ("$share/", Share),
            ("$share/g", Share),
            ("$share/g/", Share),
            ("$share//a", Share),
            ("$share/+/a", Share),
            ("$share/g#/a", Share),
            ("$share/g/$share/h/a", Share),
            ("$share/g/a#", Wildcard),
            ("$share/g/#/a", Wildcard),
        ] {
            assert_eq!(parse(filter), Err(error), "{filter}");
        }
        // [MQTT-4.7.3-3]
        assert!(parse(&"x".repeat(65_535)).is_ok());
        assert_eq!(parse(&"x".repeat(65_536)), Err(TooLong));
    }

    #[test]
    fn topic_names_have_characters_and_no_wildcards() {
        for name in ["a", "/", "a/b", " ", "$SYS", "车/7", &"x".repeat(65_535)] {
            assert_eq!(validate_topic_name(name), Ok(()), "{name}");
        }
        for (name, error) in [
            ("", TopicError::Empty),
            ("#", TopicError::Wildcard),
            ("a/+/b", TopicError::Wildcard),
            ("a+b", TopicError::Wildcard),
            ("a\0", TopicError::Null),
            (&"x".repeat(65_536), TopicError::TooLong),
        ] {
            assert_eq!(validate_topic_name(name), Err(error), "{name}");
        }
    }

    /// Matching as the standard's words put it, level by level.
    fn matches_by_levels(filter: &str, topic: &str) -> bool {
        let starts_wild = filter.starts_with(['+', '#']);
        if topic.starts_with('$') && starts_wild {
            return false;
        }
        let filter: Vec<_> = filter.split('/').collect();
        let topic: Vec<_> = topic.split('/').collect();
        let (fixed, rest) = match filter.split_last() {
            Some((&"#", fixed)) => (fixed, true),
            _ => (&filter[..], false),
        };
        let long_enough = if rest { topic.len() >= fixed.len() } else { topic.len() == fixed.len() };
        long_enough && fixed.iter().zip(&topic).all(|(filter, topic)| *filter == "+" || filter == topic)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn matching_bytes_is_matching_levels(
            filter in "(\\+|[ab$]{0,2})(/(\\+|[ab]{0,2})){0,3}(/#)?",
            topic in "[ab$]{0,2}(/[ab]{0,2}){0,4}",
        ) {
            prop_assume!(parse(&filter).is_ok() && validate_topic_name(&topic).is_ok());
            prop_assert_eq!(filter_matches(&filter, &topic), matches_by_levels(&filter, &topic));
        }

        #[test]
        fn any_text_parses_or_not_without_panic(filter in "[a+#/$\u{0}é]{0,12}|\\$share/[a+/]{0,6}") {
            if let Ok(parsed) = parse(&filter) {
                prop_assert!(filter.ends_with(&*parsed.filter));
                filter_matches(&parsed.filter, "a/b/$c");
            }
        }
    }
}
