//! The levels that a node of the tree stands for, as bytes: they are compared, never shown.

/// Bytes of a label that needs no memory of its own.
const SHORT: usize = 22;

/// One level or several, with slashes between.
#[derive(Debug)]
pub(super) enum Label {
    Short { len: u8, text: [u8; SHORT] },
    Long(Box<[u8]>),
}

impl Label {
    pub(super) fn new(label: &[u8]) -> Self {
        if label.len() > SHORT {
            return Self::Long(label.into());
        }
        let mut text = [0; SHORT];
        text[..label.len()].copy_from_slice(label);
        Self::Short { len: label.len() as u8, text }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, text } => &text[..usize::from(*len)],
            Self::Long(label) => label,
        }
    }

    /// Bytes of memory besides itself.
    pub(super) fn besides(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(label) => label.len(),
        }
    }
}

/// Levels are short: this is faster than a search made for long texts.
fn slash(levels: &[u8]) -> usize {
    levels.iter().position(|byte| *byte == b'/').unwrap_or(levels.len())
}

pub(super) fn first_level(levels: &[u8]) -> &[u8] {
    &levels[..slash(levels)]
}

/// Takes a label off the beginning of a topic: `None` if it does not match, else what is left, if anything.
pub(super) fn follow<'t>(label: &[u8], topic: &'t [u8]) -> Option<Option<&'t [u8]>> {
    if let Some(rest) = strip_levels(topic, label) {
        return Some(rest);
    }
    let (mut label, mut topic) = (label, topic);
    loop {
        let (of_label, of_topic) = (slash(label), slash(topic));
        if label[..of_label] != *b"+" && label[..of_label] != topic[..of_topic] {
            return None;
        }
        let rest = topic.get(of_topic + 1..);
        let Some(left) = label.get(of_label + 1..) else { return Some(rest) };
        (label, topic) = (left, rest?);
    }
}

/// Takes exactly these levels off the beginning of others.
pub(super) fn strip_levels<'l>(levels: &'l [u8], first: &[u8]) -> Option<Option<&'l [u8]>> {
    match levels.strip_prefix(first)? {
        [] => Some(None),
        [b'/', rest @ ..] => Some(Some(rest)),
        _ => None,
    }
}

/// Bytes of the first levels that both have; their first level is the same.
pub(super) fn shared_levels(one: &[u8], other: &[u8]) -> usize {
    let shared = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let ends = |levels: &[u8]| levels.get(shared).is_none_or(|byte| *byte == b'/');
    if ends(one) && ends(other) {
        return shared;
    }
    one[..shared].iter().rposition(|byte| *byte == b'/').unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_it_was_made_of() {
        for len in [0, 1, SHORT, SHORT + 1, 1_000] {
            let text = vec![b'x'; len];
            let label = Label::new(&text);
            assert_eq!(label.as_bytes(), text);
            assert_eq!(label.besides() > 0, len > SHORT);
        }
        assert_eq!(size_of::<Label>(), SHORT + 2);
    }

    #[test]
    fn a_label_is_taken_off_a_topic_that_it_matches() {
        for (label, topic, left) in [
            ("a", "a", Some(None)),
            ("a", "a/b", Some(Some("b"))),
            ("a", "a/", Some(Some(""))),
            ("a", "ab", None),
            ("a/b", "a", None),
            ("a/b", "a/b/c", Some(Some("c"))),
            ("+/b", "a/b/c/d", Some(Some("c/d"))),
            ("+", "", Some(None)),
            ("a/+", "a/", Some(None)),
            ("a/+", "a", None),
            ("a/+/c", "a/b/d", None),
            ("", "", Some(None)),
            ("", "/a", Some(Some("a"))),
            ("", "a", None),
            ("/+", "//", Some(Some(""))),
        ] {
            let found = follow(label.as_bytes(), topic.as_bytes());
            assert_eq!(found, left.map(|left: Option<&str>| left.map(str::as_bytes)), "{label} {topic}");
        }
    }

    #[test]
    fn levels_are_shared_as_a_whole() {
        for (one, other, shared) in [
            ("a", "a", "a"),
            ("a/b", "a/c", "a"),
            ("a/b", "a", "a"),
            ("a/bc/d", "a/bc/e", "a/bc"),
            ("a/bc", "a/bd", "a"),
            ("a/b/", "a/b", "a/b"),
            ("/x", "/y", ""),
            ("/x", "", ""),
            ("//x", "//y", "/"),
        ] {
            assert_eq!(shared_levels(one.as_bytes(), other.as_bytes()), shared.len(), "{one} {other}");
        }
    }
}
