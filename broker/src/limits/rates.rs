//! How fast one connection may publish: its own rates and those it shares with its user's other connections.

use std::{rc::Rc, time::Duration};

use super::rate::Rate;

const SECOND: Duration = Duration::from_secs(1);

/// Refusals by rate that are let pass a second, at least.
const REFUSALS_PER_S_MIN: u64 = 10;

/// Numbers of a message rate and a byte rate; 0 = none. A burst of 0 is one second's worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateBounds {
    pub(crate) messages_per_s: u64,
    pub(crate) messages_burst: u64,
    pub(crate) bytes_per_s: u64,
    pub(crate) bytes_burst: u64,
}

impl RateBounds {
    fn is_none(self) -> bool {
        self.messages_per_s == 0 && self.bytes_per_s == 0
    }
}

/// The two rates of a client or of a user.
#[derive(Debug)]
pub(crate) struct Rates {
    bounds: RateBounds,
    messages: Option<Rate>,
    bytes: Option<Rate>,
}

impl Rates {
    /// Makes the rates; `None` if there is none. The byte burst takes at least the largest packet.
    pub(crate) fn new(now_ms: u64, bounds: RateBounds, packet_bytes_max: u64) -> Option<Self> {
        let RateBounds { messages_per_s, messages_burst, bytes_per_s, bytes_burst } = bounds;
        let bytes_burst = if bytes_burst == 0 { bytes_per_s } else { bytes_burst }.max(packet_bytes_max);
        (!bounds.is_none()).then(|| Self {
            bounds,
            messages: Rate::new(now_ms, messages_per_s, SECOND, messages_burst),
            bytes: Rate::new(now_ms, bytes_per_s, SECOND, bytes_burst),
        })
    }
}

/// A PUBLISH that comes too early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// When it would be in time.
    pub(crate) wait_ms: u64,
    /// Rates that it was charged to already; to be given back to [`Throttle::take`].
    pub(crate) charged: u8,
    /// The rate, in words.
    pub(crate) what: String,
}

/// All rates of one connection.
#[derive(Debug)]
pub(crate) struct Throttle {
    client: Option<Rates>,
    user: Option<Rc<Rates>>,
    /// Lets refusals pass as often as messages; who needs more goes on far above the rate.
    refusals: Option<Rate>,
}

impl Throttle {
    /// Makes the throttle of a connection; `None` if nothing bounds it.
    pub(crate) fn new(
        now_ms: u64,
        client: Option<Rates>,
        user: Option<Rc<Rates>>,
        refusals_burst: u64,
    ) -> Option<Self> {
        let rates = || client.iter().chain(user.as_deref());
        let per_s = rates().map(|rates| rates.bounds.messages_per_s).max()?.max(REFUSALS_PER_S_MIN);
        let refusals = Rate::new(now_ms, per_s, SECOND, refusals_burst.max(1));
        Some(Self { client, user, refusals })
    }

    /// Charges a PUBLISH of `bytes` to every rate. `charged` is 0, or what [`Over`] said of the same one.
    pub(crate) fn take(&self, now_ms: u64, bytes: u64, charged: u8) -> Result<(), Over> {
        let ((client_messages, client_bytes), (user_messages, user_bytes)) =
            (both(self.client.as_ref()), both(self.user.as_deref()));
        let all = [(client_messages, 1), (client_bytes, bytes), (user_messages, 1), (user_bytes, bytes)];
        for (at, (rate, n)) in all.into_iter().enumerate().skip(usize::from(charged)) {
            if let Some(Err(wait_ms)) = rate.map(|rate| rate.take(now_ms, n)) {
                return Err(Over { wait_ms, charged: at as u8, what: self.explain(at) });
            }
        }
        Ok(())
    }

    /// Counts a refused PUBLISH; says whether the client goes on far above its rate.
    pub(crate) fn is_far_over(&self, now_ms: u64) -> bool {
        self.refusals.as_ref().is_some_and(|refusals| refusals.take(now_ms, 1).is_err())
    }

    fn explain(&self, at: usize) -> String {
        let (whose, rates) = if at < 2 {
            ("this client", self.client.as_ref())
        } else {
            ("all clients of this user together", self.user.as_deref())
        };
        let bounds = rates.map(|rates| rates.bounds).unwrap_or_default();
        match at % 2 {
            0 => format!("{whose} may publish {} messages a second", bounds.messages_per_s),
            _ => format!("{whose} may publish {} bytes a second", bounds.bytes_per_s),
        }
    }
}

fn both(rates: Option<&Rates>) -> (Option<&Rate>, Option<&Rate>) {
    rates.map_or((None, None), |rates| (rates.messages.as_ref(), rates.bytes.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(per_s: u64, burst: u64) -> RateBounds {
        RateBounds { messages_per_s: per_s, messages_burst: burst, ..RateBounds::default() }
    }

    fn rates(bounds: RateBounds) -> Option<Rates> {
        Rates::new(0, bounds, 256)
    }

    #[test]
    fn without_rates_there_is_nothing_to_ask() {
        assert!(rates(RateBounds::default()).is_none());
        assert!(Throttle::new(0, None, None, 5).is_none());
    }

    #[test]
    fn one_that_waits_is_not_charged_twice() {
        let bounds = RateBounds { bytes_per_s: 1_000, bytes_burst: 300, ..messages(10, 2) };
        let throttle = Throttle::new(0, rates(bounds), None, 5).unwrap();
        assert_eq!(throttle.take(0, 300, 0), Ok(()));
        let over = throttle.take(0, 300, 0).unwrap_err();
        assert_eq!((over.wait_ms, over.charged), (300, 1));
        assert_eq!(over.what, "this client may publish 1000 bytes a second");
        // After 300 ms three more messages may come, but of the two in the burst one waits here already.
        assert_eq!(throttle.take(300, 300, over.charged), Ok(()));
        assert_eq!(throttle.take(300, 0, 0).unwrap_err().what, "this client may publish 1000 bytes a second");
    }

    #[test]
    fn a_users_rate_is_shared_by_its_connections() {
        let user = Rc::new(rates(messages(10, 2)).unwrap());
        let [a, b] = [(); 2].map(|()| Throttle::new(0, None, Some(Rc::clone(&user)), 5).unwrap());
        assert_eq!((a.take(0, 1, 0), b.take(0, 1, 0)), (Ok(()), Ok(())));
        let over = a.take(0, 1, 0).unwrap_err();
        assert_eq!((over.wait_ms, over.charged), (100, 2));
        assert_eq!(over.what, "all clients of this user together may publish 10 messages a second");
    }

    #[test]
    fn the_largest_packet_always_passes_in_the_end() {
        let bounds = RateBounds { bytes_per_s: 10, bytes_burst: 10, ..RateBounds::default() };
        let throttle = Throttle::new(0, Rates::new(0, bounds, 1_000), None, 5).unwrap();
        assert_eq!(throttle.take(0, 1_000, 0), Ok(()));
        assert_eq!(throttle.take(0, 1_000, 0).unwrap_err().wait_ms, 100_000);
        assert_eq!(throttle.take(100_000, 1_000, 1), Ok(()));
    }

    #[test]
    fn refusals_as_often_as_messages_are_borne_and_more_of_them_not_for_long() {
        let throttle = Throttle::new(0, rates(messages(100, 0)), None, 50).unwrap();
        // Twice the rate for a minute: each second one message is refused.
        assert!((0..6_000).all(|i| !throttle.is_far_over(i * 10)));
        let now_ms = 120_000;
        let borne = (0..1_000).take_while(|_| !throttle.is_far_over(now_ms)).count();
        assert_eq!(borne, 50);
    }
}
