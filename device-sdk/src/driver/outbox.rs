//! Events on their way to the program.
//!
//! A message that finds the channel full stops the socket. News about the connection do not: a program that only
//! publishes may hold its [`crate::Events`] without ever looking, so the oldest news give way.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::Event;

/// News that may wait for room in the channel.
const NEWS_MAX: usize = 32;

pub(super) struct Outbox {
    channel: mpsc::Sender<Event>,
    waiting: VecDeque<Event>,
    messages_waiting: usize,
}

impl Outbox {
    pub(super) fn new(channel: mpsc::Sender<Event>) -> Self {
        Self { channel, waiting: VecDeque::new(), messages_waiting: 0 }
    }

    pub(super) fn push(&mut self, event: Event) {
        if is_message(&event) {
            self.messages_waiting += 1;
        } else if self.waiting.len() - self.messages_waiting >= NEWS_MAX
            && let Some(oldest) = self.waiting.iter().position(|event| !is_message(event))
        {
            self.waiting.remove(oldest);
        }
        self.waiting.push_back(event);
        self.flush();
    }

    /// Moves what there is room for; forgets everything when the program has dropped its end.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            let was_message = is_message(&event);
            match self.channel.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.messages_waiting -= usize::from(was_message);
                }
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    return;
                }
            }
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Says whether a message waits, so that no more may be read.
    pub(super) fn is_blocked(&self) -> bool {
        self.messages_waiting > 0
    }

    pub(super) async fn has_room(&self) {
        // The permit goes back at once; only this task sends, so the room stays. An error means a dropped receiver,
        // for which `flush` does the right thing too.
        let _ = self.channel.reserve().await;
    }

    pub(super) async fn dropped(&self) {
        self.channel.closed().await;
    }
}

fn is_message(event: &Event) -> bool {
    matches!(event, Event::Message(_))
}

#[cfg(test)]
mod tests {
    use protocol::QoS;

    use super::*;
    use crate::Incoming;

    fn message(topic: &str) -> Event {
        Event::Message(Incoming {
            topic: topic.to_owned(),
            payload: bytes::Bytes::new(),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            properties: protocol::PublishProperties::default(),
            ack: None,
        })
    }

    #[test]
    fn messages_block_and_news_give_way() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        for _ in 0..1000 {
            outbox.push(Event::Connected { session_present: true });
        }
        assert!(!outbox.is_blocked() && outbox.waiting.len() == NEWS_MAX);
        outbox.push(message("a"));
        assert!(outbox.is_blocked());
        // Everything arrives in order, the message last.
        let mut topics = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            topics.push(if let Event::Message(m) = event { m.topic } else { "news".to_owned() });
            outbox.flush();
        }
        assert_eq!(topics.len(), 1 + NEWS_MAX + 1);
        assert_eq!(topics.last().map(String::as_str), Some("a"));
        assert!(!outbox.is_blocked());
    }

    #[test]
    fn a_program_that_dropped_its_events_blocks_nothing() {
        let (sender, receiver) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        outbox.push(message("a"));
        outbox.push(message("b"));
        assert!(outbox.is_blocked());
        drop(receiver);
        outbox.flush();
        assert!(!outbox.is_blocked() && !outbox.is_waiting());
    }
}
