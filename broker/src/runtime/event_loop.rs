//! The loop of the shard's thread: a look at all sockets, then what is ready, in this order:
//!
//! 1. what other threads say, as far as it goes in a slice;
//! 2. connections that are ready and owe little, and what they brought is stored and written;
//! 3. connections that wait for slices, for a round;
//! 4. who wants to be let in, a few;
//! 5. the turn's end again, then what deadlines ask for and what the engine has left to do.
//!
//! Each part is bounded, so that the next look comes soon, however much there is. The look waits when there is nothing
//! to do until a deadline: then a message costs it one wait, one read and one write.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use engine::ConnId;
use mio::Token;
use tokio::sync::mpsc;

use super::{Ask, Core, Entry, Inbox, Parts, SLOT_BITS, accept::Door, look::Look};
use crate::{FatalError, listener::Arrival};

/// Questions of other threads, and connections from handshakes, that are taken in before the next look.
const BUNCH: usize = 16;

/// The number of the first listener among the sockets.
const FIRST_DOOR: usize = 1;

/// What the loop owns besides the core.
struct EventLoop {
    look: Look,
    inbox: Arc<Inbox>,
    /// Wakes the loop.
    waker: Waker,
    asked: Option<mpsc::Receiver<Ask>>,
    /// They stay open while the broker ends: who comes then is told so.
    doors: Vec<Door>,
    arrivals: mpsc::Receiver<Arrival>,
}

/// Runs the shard until it is stopped or fails.
pub(crate) fn run(look: Look, parts: Parts) -> Result<(), FatalError> {
    let Parts { config, store, sockets, entry, auth, inbox, asked } = parts;
    let Entry { door, arrivals, counts } = entry;
    let mut core = Core::new(&config, store, auth, &inbox, counts);
    let doors = sockets.into_iter().zip(FIRST_DOOR..);
    let doors = doors.map(|(socket, token)| Door::open(socket, door.clone(), look.registry(), Token(token)));
    let doors: Result<Vec<_>, _> = doors.collect();
    // The listeners have their own: with the last of them the door closes.
    drop(door);
    let ended = doors.map_err(FatalError::Socket).and_then(|doors| {
        let waker = Waker::from(Arc::clone(&inbox));
        let mut event_loop = EventLoop { look, inbox, waker, asked: Some(asked), doors, arrivals };
        // What is half done is not served on; what was handed over is stored.
        catch_unwind(AssertUnwindSafe(|| event_loop.serve(&mut core))).unwrap_or(Err(FatalError::Panicked))
    });
    // First the view, which reads the log and hands it rewritten segments.
    drop(core.view.take());
    // Also after a failure: what was handed over is committed if the store still can.
    let committer = core.committer.take();
    let closed = committer.map_or(Ok(()), |committer| committer.close().map_err(FatalError::Store));
    ended.and(closed)
}

impl EventLoop {
    fn serve(&mut self, core: &mut Core) -> Result<(), FatalError> {
        core.begin();
        // What waits there already rang for nobody.
        self.take_in(core);
        loop {
            core.end_turn();
            let timeout_ms = core.look_at_the_clock().min(self.next_door_ms(core));
            let is_rung = self.look.wait(&self.inbox, Duration::from_millis(timeout_ms));
            let is_rung = is_rung.map_err(FatalError::Socket)?;
            self.tell(core);
            if is_rung || core.has_committed() {
                if let Some(failure) = self.inbox.take_failure() {
                    return Err(failure);
                }
                core.take_inbox();
                self.take_in(core);
            }
            core.serve_ready();
            core.end_turn();
            core.serve_slices();
            self.accept(core);
            if self.inbox.is_stopping() && core.go_on_stopping() {
                return Ok(());
            }
        }
    }

    /// Tells the connections and listeners what the look told.
    fn tell(&mut self, core: &mut Core) {
        for (Token(token), readiness) in self.look.ready() {
            if token >= 1 << SLOT_BITS {
                core.readiness(ConnId(token as u64), readiness);
            } else if let Some(door) = self.doors.get_mut(token - FIRST_DOOR) {
                door.ring();
            }
        }
    }

    /// Takes a few questions of other threads and connections that come from handshakes.
    fn take_in(&mut self, core: &mut Core) {
        let mut cx = Context::from_waker(&self.waker);
        let mut left = BUNCH;
        while let Some(asked) = &mut self.asked
            && let Poll::Ready(ask) = asked.poll_recv(&mut cx)
        {
            match ask {
                Some(ask) => core.answer(ask),
                None => self.asked = None,
            }
            left -= 1;
            if left == 0 {
                // The others come first.
                self.waker.wake_by_ref();
                break;
            }
        }
        let mut left = BUNCH;
        while let Poll::Ready(Some(arrival)) = self.arrivals.poll_recv(&mut cx) {
            core.arrive(self.look.registry(), arrival);
            left -= 1;
            if left == 0 {
                self.waker.wake_by_ref();
                break;
            }
        }
    }

    fn accept(&mut self, core: &mut Core) {
        self.doors.iter_mut().for_each(|door| door.accept(core, self.look.registry()));
    }

    /// Says in how many milliseconds a listener may go on that has somebody waiting.
    fn next_door_ms(&self, core: &Core) -> u64 {
        let next_ms = self.doors.iter().filter_map(Door::next_ms).min();
        next_ms.map_or(u64::MAX, |next_ms| next_ms.saturating_sub(core.clock.now().monotonic_ms))
    }
}
