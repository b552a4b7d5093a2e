//! What two filters have to do with each other: whether one takes in the other, whether they meet.
//!
//! Rights are decided by this, and the filters come from clients: both go over the levels once, without
//! recursion and without memory of their own.
//!
//! The empty topic counts as a topic here, although nobody can publish to it: so `+/+/#` does not cover `/#`, and `+`
//! meets it. For rights that errs on the side of refusing.

/// One level of a filter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level<'a> {
    Literal(&'a str),
    /// `+`
    One,
    /// `#`
    Rest,
}

impl<'a> Level<'a> {
    fn of(text: &'a str) -> Self {
        match text {
            "+" => Self::One,
            "#" => Self::Rest,
            literal => Self::Literal(literal),
        }
    }

    /// [MQTT-4.7.2-1] at the beginning of a filter a wildcard stands for no level that begins with `$`.
    fn is_dollar(self) -> bool {
        matches!(self, Self::Literal(literal) if literal.starts_with('$'))
    }
}

/// Says whether `outer` matches every topic that `inner` matches (both valid filters, no shared prefix).
#[must_use]
pub fn filter_covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('/').map(Level::of), inner.split('/').map(Level::of));
    let mut is_first = true;
    loop {
        let (of_outer, of_inner) = (outer.next(), inner.next());
        match (of_outer, of_inner) {
            (None, of_inner) => return of_inner.is_none(),
            // `a/#` includes its parent `a` (section 4.7.1.2).
            (Some(Level::Rest), of_inner) => return !(is_first && of_inner.is_some_and(Level::is_dollar)),
            // Every topic has a first level: `#` alone is the same as `+/#`.
            (Some(Level::One), Some(Level::Rest)) => return is_first && outer.next() == Some(Level::Rest),
            (Some(Level::One), Some(of_inner)) if is_first && of_inner.is_dollar() => return false,
            (Some(Level::One), Some(_)) => {}
            (of_outer, of_inner) if of_outer == of_inner => {}
            _ => return false,
        }
        is_first = false;
    }
}

/// Says whether some topic matches both filters (both valid, no shared prefix).
#[must_use]
pub fn filters_overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('/').map(Level::of), other.split('/').map(Level::of));
    let mut is_first = true;
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some(Level::Rest), met) | (met, Some(Level::Rest)) => {
                return !(is_first && met.is_some_and(Level::is_dollar));
            }
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(Level::One), Some(met)) | (Some(met), Some(Level::One)) => {
                if is_first && met.is_dollar() {
                    return false;
                }
            }
            (one, other) if one == other => {}
            _ => return false,
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::{TopicFilter, filter_matches};

    /// Every topic of up to four levels over levels that filters name, and one that none names; the empty one too.
    fn topics() -> Vec<String> {
        let levels = ["", "a", "b", "$a", "z"];
        let mut all: Vec<Vec<&str>> = vec![vec![]];
        let mut topics = Vec::new();
        for _ in 0..4 {
            all = all.iter().flat_map(|t| levels.map(|l| [&t[..], &[l]].concat())).collect();
            topics.extend(all.iter().map(|t| t.join("/")));
        }
        topics
    }

    fn filter() -> impl Strategy<Value = String> {
        "(\\+|[ab]?|\\$a)(/(\\+|[ab]?|\\$a)){0,2}(/#)?|#".prop_filter("empty", |f| !f.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn covering_and_meeting_are_what_all_topics_say(one in filter(), other in filter()) {
            prop_assert!(TopicFilter::parse(one.as_str().into()).is_ok());
            let topics = topics();
            let by = |f: &str| -> Vec<bool> { topics.iter().map(|t| filter_matches(f, t)).collect() };
            let (of_one, of_other) = (by(&one), by(&other));
            let both = || of_one.iter().zip(&of_other);
            prop_assert_eq!(filter_covers(&one, &other), both().all(|(one, other)| *one || !other));
            prop_assert_eq!(filters_overlap(&one, &other), both().any(|(one, other)| *one && *other));
            prop_assert_eq!(filters_overlap(&other, &one), filters_overlap(&one, &other));
        }
    }

    #[test]
    fn a_topic_is_a_filter_that_is_covered_where_it_matches() {
        for filter in ["#", "+/#", "a/#", "a/+", "+/b", "$SYS/#", "a", "/", "+"] {
            for topic in ["a", "a/b", "/", "/b", "$SYS", "$SYS/b", "b", "a/b/c"] {
                assert_eq!(filter_covers(filter, topic), filter_matches(filter, topic), "{filter} {topic}");
                assert_eq!(filters_overlap(filter, topic), filter_matches(filter, topic), "{filter} {topic}");
            }
        }
    }

    #[test]
    fn everything_is_covered_by_a_hash_except_what_begins_with_a_dollar() {
        for (outer, inner, covers, meets) in [
            ("#", "+/#", true, true),
            ("+/#", "#", true, true),
            ("+", "#", false, true),
            ("+/+/#", "#", false, true),
            ("#", "$SYS/#", false, false),
            ("+/#", "$SYS/#", false, false),
            ("$SYS/#", "#", false, false),
            ("$SYS/#", "$SYS", true, true),
            ("$SYS/+", "$SYS/#", false, true),
            ("a/#", "a/+", true, true),
            ("a/+", "a/#", false, true),
            ("a/#", "a", true, true),
            ("a", "a/#", false, true),
            ("a/b", "a/+", false, true),
            ("a/+/c", "a/b/+", false, true),
            ("a/+/c", "b/#", false, false),
            ("a/+", "a/+/+", false, false),
            // They differ in the empty topic alone.
            ("+/+/#", "/#", false, true),
            ("+", "/#", false, true),
        ] {
            assert_eq!(filter_covers(outer, inner), covers, "{outer} covers {inner}");
            assert_eq!(filters_overlap(outer, inner), meets, "{outer} meets {inner}");
        }
    }

    #[test]
    fn filters_of_65_535_bytes_cost_no_stack() {
        let deep = "/".repeat(65_535);
        let wild = "+/".repeat(32_767) + "#";
        assert!(filter_covers(&wild, &deep) && !filter_covers(&deep, &wild));
        assert!(filters_overlap(&wild, &deep) && filters_overlap(&deep, &deep));
        assert!(!filters_overlap(&deep, &deep[1..]));
    }
}
