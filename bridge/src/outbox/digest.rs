//! Many messages told as one, when a sink's quota lets no more through.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    ids,
    notice::{Notice, Severity},
    state::Entry,
};

/// The kind of a digest.
const KIND: &str = "digest";
/// Most messages in one digest.
const MESSAGES_MAX: usize = 2_000;
/// Fewest messages that make one.
const MESSAGES_MIN: usize = 2;

/// Joins the first of the messages that wait for a sink, as many as fit into `bytes_max` of text; nothing of their texts is left out. `None` if
/// fewer than two would be joined. Returns the digest and how many it stands for, which are the first ones.
pub(crate) fn digest<'a>(
    waiting: impl Iterator<Item = &'a Entry>,
    bytes_max: usize,
    now_ms: u64,
) -> Option<(Entry, usize)> {
    let mut lines = Vec::new();
    let mut ids = Vec::new();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut severity = Severity::Info;
    let mut oldest: Option<&Entry> = None;
    // The headline grows with the number of kinds; what is kept for it is enough for the kinds there are.
    let mut bytes = bytes_max / 8;
    for entry in waiting.take(MESSAGES_MAX) {
        let notice = Notice::of(entry);
        if entry.kind == KIND || bytes + notice.text.len() + 1 > bytes_max {
            break;
        }
        bytes += notice.text.len() + 1;
        lines.push(notice.text);
        ids.push(entry.id.as_str());
        *kinds.entry(notice.kind.replace('_', " ")).or_default() += 1;
        severity = severity.max(notice.severity);
        oldest.get_or_insert(entry);
    }
    let oldest = oldest.filter(|_| lines.len() >= MESSAGES_MIN)?;
    let mut counts: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    counts.truncate(10);
    let title = format!("{} alerts: {}", lines.len(), counts.join(", "));
    let mut headline = title.clone();
    headline.truncate(headline.floor_char_boundary(bytes_max / 8 - 1));
    let id = ids::derive("dig", &ids);
    let payload = json!({
        "id": id, "ts": oldest.created_ms, "kind": KIND, "severity": severity, "title": title, "count": lines.len(), "ids": ids,
        "text": format!("{headline}\n{}", lines.join("\n")),
    });
    let entry = Entry {
        id,
        kind: KIND.to_owned(),
        payload: payload.to_string(),
        // As old as its oldest, so that it is told late and given up as that would be.
        created_ms: oldest.created_ms.min(now_ms),
        ..oldest.clone()
    };
    Some((entry, lines.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::entry;

    fn waiting(count: usize) -> Vec<Entry> {
        (0..count)
            .map(|i| Entry {
                id: format!("ev-{i}"),
                kind: if i % 3 == 0 { "arrived".into() } else { "route_deviation".into() },
                created_ms: 100 + i as u64,
                ..entry(&format!("{{\"device\":\"truck-{i}\",\"text\":\"truck-{i} left\"}}"))
            })
            .collect()
    }

    #[test]
    fn all_texts_are_in_a_digest_and_its_headline_counts_them() {
        let waiting = waiting(10);
        let (digest, count) = digest(waiting.iter(), 4_096, 9_000).unwrap();
        assert_eq!((count, digest.created_ms), (10, 100));
        let notice = Notice::of(&digest);
        assert_eq!(
            (notice.title.as_str(), notice.severity),
            ("10 alerts: 4 arrived, 6 route deviation", Severity::Warning)
        );
        assert_eq!(notice.text.lines().count(), 11);
        assert!((0..10).all(|i| notice.text.contains(&format!("truck-{i} left"))), "{}", notice.text);
    }

    #[test]
    fn a_digest_fits_its_sink_and_the_rest_waits_for_the_next() {
        let waiting = waiting(500);
        let mut told = 0;
        while let Some((entry, count)) = digest(waiting[told..].iter(), 1_000, 9_000) {
            let text = Notice::of(&entry).text;
            assert!(text.len() <= 1_000, "{}", text.len());
            assert!(text.ends_with(&format!("truck-{} left", told + count - 1)));
            told += count;
        }
        assert!(told >= 499, "{told}");
    }

    #[test]
    fn one_message_or_a_digest_is_not_digested() {
        let waiting = waiting(3);
        assert_eq!(digest(waiting[..1].iter(), 4_096, 9), None);
        let (first, _) = digest(waiting.iter(), 4_096, 9).unwrap();
        assert_eq!(digest([&first, &waiting[0]].into_iter(), 4_096, 9), None);
    }
}
