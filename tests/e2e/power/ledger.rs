//! What was published and acknowledged against what came.

use std::collections::BTreeMap;

use protocol::QoS;

use super::load::{Got, LINES, Published};

/// Everything that must be 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Acknowledged messages that did not come.
    pub(super) lost: usize,
    /// Messages whose first copy came before that of an earlier one of the same publisher, or of a lower seq.
    pub(super) out_of_order: usize,
    /// Seqs that no message has, below the highest.
    pub(super) seq_gaps: usize,
    /// Seqs that two messages have, and messages that have another seq than their acknowledgement said.
    pub(super) seqs_wrong: usize,
    /// QoS 2 messages that came twice at QoS 2.
    pub(super) repeated: usize,
}

impl std::ops::AddAssign<&Self> for Faults {
    fn add_assign(&mut self, other: &Self) {
        self.lost += other.lost;
        self.out_of_order += other.out_of_order;
        self.seq_gaps += other.seq_gaps;
        self.seqs_wrong += other.seqs_wrong;
        self.repeated += other.repeated;
    }
}

/// Judges what one subscriber of everything got. `qos` is that of its subscriptions.
pub(super) fn judge(published: &[Published], got: &[Got], qos: QoS) -> Faults {
    let mut faults = Faults::default();
    for line in LINES {
        let of = &published[line.publisher];
        let mine: Vec<_> = got.iter().filter(|g| g.publisher == line.publisher).collect();
        let mut copies: BTreeMap<u32, usize> = BTreeMap::new();
        let mut highest = None;
        for g in &mine {
            let count = copies.entry(g.number).or_default();
            *count += 1;
            // A later copy is a re-delivery, which may come at any time.
            if *count == 1 {
                faults.out_of_order += usize::from(highest.is_some_and(|h| h > g.number));
                highest = highest.max(Some(g.number));
            }
            let told = of.acknowledged.get(g.number as usize);
            faults.seqs_wrong += usize::from(told.is_some_and(|seq| *seq != g.seq));
        }
        let acknowledged = of.acknowledged.len() as u32;
        faults.lost += (0..acknowledged).filter(|number| !copies.contains_key(number)).count();
        if line.qos.min(qos) == QoS::ExactlyOnce {
            faults.repeated += copies.values().map(|count| count - 1).sum::<usize>();
        }
    }
    judge_seqs(got, &mut faults);
    faults
}

/// Each conversation's seqs are 1, 2, 3 … and each is one message's.
fn judge_seqs(got: &[Got], faults: &mut Faults) {
    let topics: BTreeMap<&str, Vec<&Got>> = got.iter().fold(BTreeMap::new(), |mut topics, g| {
        let topic = LINES[g.publisher].topic;
        if topic.starts_with("im/") {
            topics.entry(topic).or_default().push(g);
        }
        topics
    });
    for of_topic in topics.into_values() {
        let mut by_seq: BTreeMap<u64, (usize, u32)> = BTreeMap::new();
        let mut highest = 0;
        for g in of_topic {
            let Some(seq) = g.seq else {
                faults.seqs_wrong += 1;
                continue;
            };
            match by_seq.insert(seq, (g.publisher, g.number)) {
                None => {
                    faults.out_of_order += usize::from(seq < highest);
                    highest = highest.max(seq);
                }
                Some(before) => faults.seqs_wrong += usize::from(before != (g.publisher, g.number)),
            }
        }
        faults.seq_gaps += highest as usize - by_seq.len();
    }
}

#[test]
fn the_ledger_finds_what_it_is_for() {
    let acknowledged = |count: u64, in_conversation: bool| Published {
        acknowledged: (1..=count).map(|seq| in_conversation.then_some(seq)).collect(),
        sent: count as u32,
    };
    let published = [
        acknowledged(3, false),
        acknowledged(2, false),
        acknowledged(3, true),
        acknowledged(0, true),
        acknowledged(0, true),
    ];
    let got = |publisher, number, seq| Got { publisher, number, seq };
    let good = vec![
        got(0, 0, None),
        got(0, 1, None),
        got(0, 0, None),
        got(0, 2, None),
        got(1, 0, None),
        got(1, 1, None),
        got(2, 0, Some(1)),
        got(2, 1, Some(2)),
        got(2, 1, Some(2)),
        got(2, 2, Some(3)),
    ];
    let judged = |got: &[Got]| judge(&published, got, QoS::ExactlyOnce);
    assert_eq!(judged(&good), Faults::default());
    let without = |at: usize| {
        let mut got = good.clone();
        got.remove(at);
        judged(&got)
    };
    assert_eq!(without(3), Faults { lost: 1, ..Faults::default() });
    assert_eq!(without(6), Faults { lost: 1, seq_gaps: 1, ..Faults::default() });
    let with = |more: Got| judged(&[&good[..], &[more]].concat());
    assert_eq!(with(got(1, 0, None)), Faults { repeated: 1, ..Faults::default() });
    assert_eq!(with(got(3, 0, Some(3))), Faults { seqs_wrong: 1, ..Faults::default() }, "one seq for two");
    assert_eq!(with(got(2, 0, Some(9))).seqs_wrong, 1, "another seq than it was told");
    let mut swapped = good.clone();
    swapped.swap(4, 5);
    assert_eq!(judged(&swapped), Faults { out_of_order: 1, ..Faults::default() });
}
