//! Topic names and filters against an oracle that is written as the standard puts it: level by level.
//!
//! The input makes two filters and a topic, out of pieces that filters are made of, or of any UTF-8. Parsing
//! must give the oracle's verdict, matching the oracle's answer, and what two filters have to do with each other
//! must be what topics show that are made to tell.

use protocol::{
    FilterError, TopicFilter, filter_covers, filter_matches, filters_overlap, validate_topic_name,
};

use super::source::Source;

/// What filters and topics are made of: words, separators, wildcards, and what must not stand in either.
const PIECES: &[&str] =
    &["a", "b", "/", "+", "#", "/", "$", "$share/", "g/", "$SYS", "é", "\0", "//", "/+", "/#", "$im/", "车"];

/// A length that must not be exceeded ([MQTT-4.7.3-3]).
const BYTES_MAX: usize = 65_535;

pub(crate) fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let one = text(&mut source);
    let other = text(&mut source);
    let topic = text(&mut source);

    assert_eq!(validate_topic_name(&topic).is_ok(), is_topic(&topic), "topic {topic:?}");
    let (one, other) = (parse(&one), parse(&other));
    if let (Some(one), Some(other)) = (&one, &other) {
        compare(&one.filter, &other.filter);
        compare(&other.filter, &one.filter);
    }
    if !is_topic(&topic) {
        return;
    }
    for filter in [&one, &other].into_iter().flatten() {
        let levels = matches_by_levels(&filter.filter, &topic);
        assert_eq!(filter_matches(&filter.filter, &topic), levels, "filter {filter:?}, topic {topic:?}");
    }
}

/// Makes a text: pieces, any UTF-8, or one very long.
fn text(source: &mut Source<'_>) -> String {
    match source.byte() {
        // Rarely, for they are slow.
        253 => "x".repeat(BYTES_MAX - 1 + source.below(3)),
        254 => "+/".repeat(source.below(40_000)),
        200..253 => String::from_utf8_lossy(source.bytes(40)).into_owned(),
        _ => {
            let pieces = source.bytes(24).iter();
            pieces.map(|&piece| PIECES[usize::from(piece) % PIECES.len()]).collect()
        }
    }
}

fn parse(text: &str) -> Option<TopicFilter> {
    let parsed = TopicFilter::parse(text.into());
    let wanted = parts(text);
    match (&parsed, wanted) {
        (Ok(filter), Some((group, inner))) => {
            let got = (&*filter.full, filter.share.as_deref(), &*filter.filter);
            assert_eq!(got, (text, group, inner));
        }
        (Err(_), None) => {}
        (_, wanted) => panic!("{text:?} is {parsed:?}, wanted {wanted:?}"),
    }
    if text.len() > BYTES_MAX {
        assert_eq!(parsed, Err(FilterError::TooLong));
    }
    parsed.ok()
}

/// A level that no filter names.
const OTHER: &str = "\u{1}other";

fn compare(outer: &str, inner: &str) {
    let covers = topics_of(inner).iter().all(|topic| matches_by_levels(outer, topic));
    assert_eq!(filter_covers(outer, inner), covers, "{outer:?} covers {inner:?}");
    let topic = topic_of_both(outer, inner);
    let overlap = matches_by_levels(outer, &topic) && matches_by_levels(inner, &topic);
    assert_eq!(filters_overlap(outer, inner), overlap, "{outer:?} and {inner:?}, tried {topic:?}");
}

/// Topics of a filter such that whatever filter matches them all matches all of its topics: levels that nobody
/// names where it has `+`, and none, one and two of them where it has `#`.
fn topics_of(filter: &str) -> Vec<String> {
    let levels: Vec<_> = filter.split('/').map(|level| if level == "+" { OTHER } else { level }).collect();
    let Some((&"#", fixed)) = levels.split_last() else { return vec![levels.join("/")] };
    let with = |more: usize| [fixed, &[OTHER; 2][..more]].concat();
    (0..=2).map(with).filter(|topic| !topic.is_empty()).map(|topic| topic.join("/")).collect()
}

/// The topic that matches both filters if any does: the names of either where one has them.
fn topic_of_both(one: &str, other: &str) -> String {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    let mut topic = Vec::new();
    loop {
        // After its `#` a filter says no more.
        match (one.next(), other.next()) {
            (None | Some("#"), None | Some("#")) => break,
            (None | Some("#" | "+"), Some(level)) | (Some(level), None | Some("#" | "+")) => {
                topic.push(named(level));
            }
            (Some(level), Some(_)) => topic.push(level),
        }
    }
    if topic.is_empty() { OTHER.to_owned() } else { topic.join("/") }
}

fn named(level: &str) -> &str {
    if matches!(level, "+" | "#") { OTHER } else { level }
}

/// Takes a filter apart into group and filter; `None` where sections 4.7.1, 4.7.3 or 4.8.2 forbid it.
fn parts(text: &str) -> Option<(Option<&str>, &str)> {
    if text.is_empty() || text.len() > BYTES_MAX || text.contains('\0') {
        return None;
    }
    let levels: Vec<_> = text.split('/').collect();
    if levels[0] != "$share" {
        return is_filter(text).then_some((None, text));
    }
    let [_, group, rest @ ..] = &levels[..] else { return None };
    // A group in a group: this broker's own rule, for `$share` is no topic that anyone may publish to.
    let nested = rest.len() > 1 && rest[0] == "$share";
    let inner = text.splitn(3, '/').nth(2)?;
    let good = !group.is_empty() && !group.contains(['+', '#']) && is_filter(inner) && !nested;
    good.then_some((Some(group), inner))
}

fn is_filter(text: &str) -> bool {
    let levels: Vec<_> = text.split('/').collect();
    let is_good = |(at, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => at + 1 == levels.len(),
        level => !level.contains(['+', '#']),
    };
    !text.is_empty() && levels.iter().enumerate().all(is_good)
}

fn is_topic(text: &str) -> bool {
    !text.is_empty() && text.len() <= BYTES_MAX && !text.contains(['\0', '+', '#'])
}

/// Matching as section 4.7 puts it.
fn matches_by_levels(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
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
