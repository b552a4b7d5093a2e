//! The look at all sockets: which of them are ready, waited for as long as there is nothing else to do.
//!
//! Invariant: each change of readiness is told once. Who does not use all of it notes that: it is not told again.

use std::{io, time::Duration};

use mio::{Events, Poll, Registry, Token, Waker, event::Event};

use super::Inbox;

/// Sockets told of in one look; others that are ready come with the next, the system sees to their order.
const EVENTS_MAX: usize = 1024;

/// The number of the inbox among the sockets; listeners have the next ones, and connections those from 2^25 on.
const INBOX: Token = Token(0);

/// What a look told of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// The other end closed, or something is wrong: reading goes on until it says so.
    pub(super) is_hung_up: bool,
}

impl Readiness {
    pub(super) fn of(event: &Event) -> Self {
        let is_hung_up = event.is_read_closed() || event.is_error();
        Self {
            is_readable: event.is_readable() || is_hung_up,
            is_writable: event.is_writable() || event.is_write_closed() || event.is_error(),
            is_hung_up,
        }
    }
}

/// Where the sockets of the shard are registered.
#[derive(Debug)]
pub(crate) struct Look {
    poll: Poll,
    events: Events,
}

impl Look {
    /// Makes one whose waiting ends when the inbox rings.
    ///
    /// # Errors
    /// The system has no more descriptors.
    pub(crate) fn new(inbox: &Inbox) -> io::Result<Self> {
        let poll = Poll::new()?;
        inbox.hang_bell(Waker::new(poll.registry(), INBOX)?);
        Ok(Self { poll, events: Events::with_capacity(EVENTS_MAX) })
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Looks, and waits for so long if there is nothing; says whether the inbox rang.
    pub(super) fn wait(&mut self, inbox: &Inbox, timeout: Duration) -> io::Result<bool> {
        let timeout = if !timeout.is_zero() && inbox.may_sleep() { timeout } else { Duration::ZERO };
        let looked = self.poll.poll(&mut self.events, Some(timeout));
        let is_rung = inbox.take_ring();
        match looked {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            looked => looked?,
        }
        Ok(is_rung)
    }

    /// Returns what the last look told.
    pub(super) fn ready(&self) -> impl Iterator<Item = (Token, Readiness)> {
        let of_sockets = self.events.iter().filter(|event| event.token() != INBOX);
        of_sockets.map(|event| (event.token(), Readiness::of(event)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc::channel},
        thread,
        time::Instant,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_ring_before_the_look_and_one_during_it_both_end_it() {
        let inbox = Arc::new(Inbox::default());
        let mut look = Look::new(&inbox).unwrap();
        inbox.stop();
        let began = Instant::now();
        assert!(look.wait(&inbox, LONG).unwrap());
        assert!(!look.wait(&inbox, Duration::ZERO).unwrap(), "a ring is told once");
        let (done, told) = channel();
        let ringing = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                for _ in 0..1_000 {
                    inbox.stop();
                    told.recv().unwrap();
                }
            }
        });
        let mut rung = 0;
        while rung < 1_000 {
            if look.wait(&inbox, LONG).unwrap() {
                rung += 1;
                done.send(()).unwrap();
            }
        }
        ringing.join().unwrap();
        assert!(began.elapsed() < LONG, "a ring was lost");
    }

    #[test]
    fn readiness_is_told_once_and_the_end_with_it() -> io::Result<()> {
        use std::io::Write;
        let inbox = Inbox::default();
        let mut look = Look::new(&inbox)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        accepted.set_nonblocking(true)?;
        let mut socket = mio::net::TcpStream::from_std(accepted);
        look.registry().register(&mut socket, Token(7), mio::Interest::READABLE)?;
        client.write_all(b"x")?;
        look.wait(&inbox, LONG)?;
        let told: Vec<_> = look.ready().collect();
        assert_eq!(told, [(Token(7), Readiness { is_readable: true, ..Readiness::default() })]);
        look.wait(&inbox, Duration::ZERO)?;
        assert_eq!(look.ready().count(), 0);
        drop(client);
        look.wait(&inbox, LONG)?;
        let told: Vec<_> = look.ready().map(|(_, readiness)| readiness.is_hung_up).collect();
        assert_eq!(told, [true]);
        Ok(())
    }
}
