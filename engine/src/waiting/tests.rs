//! The queue does what a plain list does, whatever is done to it.

use super::*;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::body::BodySlot;
use crate::message::{Flag, Identifiers, Message, Share, message_for_tests};
use crate::record::Form;
use proptest::prelude::*;

fn delivery(no: u64, qos: QoS, group: Option<u64>) -> Delivery {
    // As it is when it was packed and made again, so that nothing but the order can differ.
    let (is_written, body) = (Flag::from(true), BodySlot::default());
    let message =
        Message { no: MsgNo(no), record: no, is_written, body, ..Message::clone(&message_for_tests()) };
    let message = Arc::new(message);
    let share = |no| Arc::new(Share { no: GroupNo(no), full: "$share/g/t".into(), form: Form::Plain });
    let origin = group.map_or(Origin::Subscriptions, |no| Origin::Group { share: share(no), kept: false });
    Delivery { message, qos, retain: false, origin, subscription_identifiers: Identifiers::default() }
}

fn made(message: Message, _: bool) -> Arc<Message> {
    Arc::new(message)
}

/// Packs some, or makes some again; `at` is one that waits.
fn pack(waiting: &mut Waiting, how: usize, at: Option<MsgNo>) {
    match (how, at) {
        (0, _) => waiting.pack_absent(u64::MAX),
        (1, _) => waiting.unpack_ahead(3, &mut made),
        (2, _) => waiting.unpack_ahead(64, &mut made),
        // Some are not durable.
        (3, Some(no)) => waiting.pack(no, no.0 - 1),
        (_, Some(no)) => waiting.pack(no, u64::MAX),
        _ => {}
    }
    waiting.check_held();
}

fn front(waiting: &Waiting) -> Option<MsgNo> {
    waiting.front().map(|(outline, _)| outline.no)
}

proptest! {
    #[test]
    fn it_does_what_a_plain_list_does(
        steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..400),
    ) {
        let (mut waiting, mut list) = (Waiting::default(), Vec::<Delivery>::new());
        let mut next = 100;
        for (kind, index) in steps {
            let chosen = (!list.is_empty()).then(|| index.index(list.len()));
            match (kind, chosen) {
                (0, _) => prop_assert_eq!(waiting.pop(&mut made), (!list.is_empty()).then(|| list.remove(0))),
                (1, _) => {
                    let oldest = list.iter().position(|d| d.qos == QoS::AtMostOnce);
                    prop_assert_eq!(waiting.pop_at_most_once(&mut made), oldest.map(|at| list.remove(at)));
                }
                (2, Some(at)) => {
                    let (no, source) = (list[at].message.no, list[at].source());
                    prop_assert_eq!(waiting.remove(no, source, &mut made), Some(list.remove(at)));
                    prop_assert_eq!(waiting.remove(no, source, &mut made), None);
                }
                (3, _) => {
                    let of_group = |d: &Delivery| d.source() == Source::Group(GroupNo(1));
                    let expected = list.iter().position(of_group).map(|at| list.remove(at));
                    let found = waiting.next_of_group(GroupNo(1), PlaceNo::default());
                    prop_assert_eq!(found.and_then(|(place, _)| waiting.take(place, &mut made)), expected);
                }
                (4, _) => pack(&mut waiting, index.index(6), chosen.map(|at| list[at].message.no)),
                _ => {
                    // What a group took from another member has an older number.
                    let (no, group) = match index.index(4) {
                        0 => (next - 70, Some(1)),
                        1 => (next, Some(2)),
                        _ => (next, None),
                    };
                    next += 1;
                    let qos = if index.index(3) == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
                    waiting.push(delivery(no, qos, group));
                    list.push(delivery(no, qos, group));
                    prop_assert!(waiting.places.len() <= waiting.len * 2 + EMPTY_MIN + 1);
                }
            }
            prop_assert!(waiting.iter().eq(list.iter().cloned()));
            prop_assert_eq!(front(&waiting), list.first().map(|d| d.message.no));
            prop_assert!(waiting.outlines().eq(list.iter().map(Outline::from)));
            prop_assert_eq!((waiting.len(), waiting.is_empty()), (list.len(), list.is_empty()));
            prop_assert_eq!(waiting.bytes(), list.iter().map(|d| d.message.bytes()).sum::<usize>());
            for group in [1, 2].map(GroupNo) {
                let is_there = list.iter().any(|d| d.source() == Source::Group(group));
                prop_assert_eq!(waiting.has_group(group), is_there);
            }
        }
        waiting.check_anew();
        let checked = std::iter::from_fn(|| waiting.check_next()).count();
        prop_assert_eq!(checked, list.len());
    }
}

#[test]
fn what_is_pushed_while_rights_are_checked_is_checked_too() {
    let mut waiting = Waiting::default();
    for no in 1..4 {
        waiting.push(delivery(no, QoS::AtLeastOnce, None));
    }
    let mut seen = Vec::new();
    while let Some(place) = waiting.check_next() {
        let no = waiting.get(place).unwrap().message.no;
        seen.push(no.0);
        if no.0 < 3 {
            waiting.take(place, &mut made);
            waiting.push(delivery(no.0 + 10, QoS::AtLeastOnce, None));
        }
    }
    assert_eq!(seen, [1, 2, 3, 11, 12]);
}

/// A queue without any cleverness: who goes first stands in a list of its own.
#[derive(Default)]
struct Model {
    /// In the order in which they came.
    all: Vec<Delivery>,
    forward: Vec<MsgNo>,
}

impl Model {
    fn push(&mut self, delivery: Delivery) {
        if delivery.message.is_high {
            let topic = &delivery.message.topic;
            let earlier = self.all.iter().filter(|d| d.message.topic == *topic).map(|d| d.message.no);
            let earlier: Vec<_> = earlier.filter(|no| !self.forward.contains(no)).collect();
            self.forward.extend(earlier);
            self.forward.push(delivery.message.no);
        }
        self.all.push(delivery);
    }

    fn take(&mut self, no: MsgNo) -> Delivery {
        self.forward.retain(|other| *other != no);
        let at = self.all.iter().position(|d| d.message.no == no).unwrap();
        self.all.remove(at)
    }

    fn out(&self) -> Vec<MsgNo> {
        let others = self.all.iter().map(|d| d.message.no).filter(|no| !self.forward.contains(no));
        self.forward.iter().copied().chain(others).collect()
    }
}

proptest! {
    #[test]
    fn high_messages_go_first_and_order_inside_a_topic_never_changes(
        steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>(), 0u8..4, any::<bool>()), 1..500),
    ) {
        let (mut waiting, mut model) = (Waiting::default(), Model::default());
        for (no, (kind, index, topic, is_high)) in (1..).zip(steps) {
            let chosen = (!model.all.is_empty()).then(|| model.all[index.index(model.all.len())].message.no);
            match (kind, chosen) {
                (0 | 1, _) => {
                    let expected = model.out().first().map(|no| model.take(*no));
                    prop_assert_eq!(waiting.pop(&mut made), expected);
                }
                (2, _) => {
                    let expected = model.all.first().map(|d| d.message.no).map(|no| model.take(no));
                    prop_assert_eq!(waiting.pop_oldest(&mut made), expected);
                }
                (3, Some(no)) => prop_assert_eq!(waiting.remove(no, Source::Subscriptions, &mut made), Some(model.take(no))),
                (4, Some(no)) => prop_assert_eq!(waiting.remove_first(no, &mut made), Some(model.take(no))),
                (5, _) => pack(&mut waiting, index.index(6), chosen),
                _ => {
                    let of = Delivery { ..delivery(no, QoS::AtLeastOnce, None) };
                    let topic = format!("t/{topic}").into();
                    let is_high = is_high && kind == 9;
                    let message = Message { topic, is_high, ..Message::clone(&of.message) };
                    let of = Delivery { message: Arc::new(message), ..of };
                    waiting.push(of.clone());
                    model.push(of);
                }
            }
            let out: Vec<_> = waiting.ahead(usize::MAX).iter().map(|(outline, _)| outline.no).collect();
            prop_assert_eq!(&out, &model.out());
            prop_assert_eq!(front(&waiting), out.first().copied());
            prop_assert!(waiting.iter().eq(model.all.iter().cloned()));
            for topic in 0..4 {
                let of_topic = |outline: &Outline<'_>| outline.topic == format!("t/{topic}");
                let ahead = waiting.ahead(usize::MAX).into_iter().map(|(outline, _)| outline);
                prop_assert!(ahead.filter(of_topic).map(|outline| outline.no).is_sorted());
            }
        }
    }

    #[test]
    fn the_newest_of_each_collapse_key_is_known(
        steps in prop::collection::vec((0u8..8, any::<prop::sample::Index>(), 0u64..4), 1..300),
    ) {
        let (mut waiting, mut list) = (Waiting::default(), Vec::<Delivery>::new());
        for (no, (kind, index, key)) in (1..).zip(steps) {
            if kind == 4 {
                pack(&mut waiting, index.index(6), list.get(index.index(4)).map(|d| d.message.no));
                continue;
            }
            if kind < 3 && !list.is_empty() {
                let taken = list.remove(index.index(list.len()));
                prop_assert_eq!(waiting.remove(taken.message.no, taken.source(), &mut made), Some(taken));
                continue;
            }
            let of = delivery(no, QoS::AtLeastOnce, (kind == 3).then_some(1));
            let message = Message { collapse: NonZeroU64::new(key), ..Message::clone(&of.message) };
            let of = Delivery { message: Arc::new(message), ..of };
            let same = |d: &&Delivery| d.message.collapse.is_some_and(|k| k.get() == key) && d.source() == of.source();
            let expected = list.iter().find(same).map(|d| d.message.no);
            prop_assert_eq!(waiting.with_key_of(&of), expected);
            if let Some(older) = expected {
                list.retain(|d| d.message.no != older);
                prop_assert!(waiting.remove(older, of.source(), &mut made).is_some());
            }
            waiting.push(of.clone());
            list.push(of);
            prop_assert!(waiting.iter().eq(list.iter().cloned()));
        }
    }
}
