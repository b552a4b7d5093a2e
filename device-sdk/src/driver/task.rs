//! The driver's task.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::handle::{Acks, Request};
use crate::queue::Queue;
use crate::{Event, Options};

pub(super) struct Task {
    options: Options,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<Event>,
    acks: Arc<Acks>,
    queue: Option<Queue>,
}

impl Task {
    pub(super) fn new(
        options: Options,
        requests: mpsc::Receiver<Request>,
        events: mpsc::Sender<Event>,
        acks: Arc<Acks>,
        queue: Option<Queue>,
    ) -> Self {
        Self { options, requests, events, acks, queue }
    }

    pub(super) async fn run(self) {
        let _ = (self.options, self.requests, self.events, self.acks, self.queue);
    }
}
