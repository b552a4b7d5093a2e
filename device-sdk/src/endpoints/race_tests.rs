//! Races on virtual time: who begins when, who wins, and that nobody is waited for in vain.

use std::sync::{Arc, Mutex};

use super::*;

const PACE: Pace = Pace {
    address: Duration::from_millis(250),
    step: Duration::from_millis(2_000),
    limit: Duration::from_millis(10_000),
};

/// What an attempt does: after so many milliseconds it succeeds or fails.
type Play = fn(&str) -> (u64, bool);

/// Runs a race; returns who began when, and the winner with its time or the failures.
async fn run(
    runners: &[(&str, u32)],
    names: &'static [(&str, u64, &[&str])],
    play: Play,
) -> (Vec<(u64, String)>, Result<(String, u64), Vec<String>>) {
    let begin = Instant::now();
    let ms = move || u64::try_from(begin.elapsed().as_millis()).unwrap();
    let starts = Arc::new(Mutex::new(Vec::new()));
    let runners = runners.iter().map(|(host, step)| Runner { host: (*host).into(), port: 1, step: *step });
    let lookup = |host: String| async move {
        let Some((_, after_ms, addresses)) = names.iter().find(|(name, ..)| *name == host) else {
            return Err(io::Error::other("no such name"));
        };
        tokio::time::sleep(Duration::from_millis(*after_ms)).await;
        Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
    };
    let connect = |_, address: SocketAddr| {
        let starts = starts.clone();
        async move {
            let address = address.ip().to_string();
            starts.lock().unwrap().push((ms(), address.clone()));
            let (after_ms, succeeds) = play(&address);
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            if succeeds { Ok(address) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
        }
    };
    let result = race(runners.collect(), PACE, lookup, connect).await;
    let result = match result {
        Ok((_, address)) => Ok((address, ms())),
        Err(failures) => Err(failures.iter().map(|failure| failure.error.to_string()).collect()),
    };
    let starts = starts.lock().unwrap().clone();
    (starts, result)
}

fn began(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(at, address)| (*at, (*address).to_owned())).collect()
}

/// Never answers.
const BLACK_HOLE: (u64, bool) = (3_600_000, false);

#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_a_quarter_of_a_second_and_families_take_turns() {
    let names: &[(&str, u64, &[&str])] = &[("h", 0, &["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"])];
    let (starts, result) = run(&[("h", 0)], names, |address| match address {
        "10.0.0.2" => (40, true),
        _ => BLACK_HOLE,
    })
    .await;
    assert_eq!(
        starts,
        began(&[(0, "2001:db8::1"), (250, "10.0.0.1"), (500, "2001:db8::2"), (750, "10.0.0.2")])
    );
    assert_eq!(result, Ok(("10.0.0.2".to_owned(), 790)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_lets_the_next_one_begin_at_once() {
    let names: &[(&str, u64, &[&str])] = &[("h", 30, &["10.0.0.1", "2001:db8::1"])];
    let (starts, result) = run(&[("h", 0), ("10.9.9.9", 1)], names, |address| match address {
        "2001:db8::1" => (5, false),
        "10.0.0.1" => (7, false),
        _ => (9, true),
    })
    .await;
    assert_eq!(starts, began(&[(30, "2001:db8::1"), (35, "10.0.0.1"), (42, "10.9.9.9")]));
    assert_eq!(result, Ok(("10.9.9.9".to_owned(), 51)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_choice_still_wins_over_a_later_step() {
    let (starts, result) = run(&[("10.0.0.1", 0), ("10.0.0.2", 1)], &[], |address| match address {
        "10.0.0.1" => (1_900, true),
        _ => (1, true),
    })
    .await;
    assert_eq!(starts, began(&[(0, "10.0.0.1")]));
    assert_eq!(result, Ok(("10.0.0.1".to_owned(), 1_900)));
    // One that does not answer gives way after the step's time, and is not given up.
    let (starts, result) = run(&[("10.0.0.1", 0), ("10.0.0.2", 1), ("10.0.0.3", 2)], &[], |address| {
        if address == "10.0.0.1" { (4_500, true) } else { BLACK_HOLE }
    })
    .await;
    assert_eq!(starts, began(&[(0, "10.0.0.1"), (2_000, "10.0.0.2"), (4_000, "10.0.0.3")]));
    assert_eq!(result, Ok(("10.0.0.1".to_owned(), 4_500)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_lookup_holds_up_nobody_else() {
    let names: &[(&str, u64, &[&str])] = &[("slow", 5_000, &["10.0.0.1"]), ("fast", 20, &["10.0.0.2"])];
    let (starts, result) = run(&[("slow", 0), ("fast", 0)], names, |_| (10, true)).await;
    assert_eq!((starts, result), (began(&[(20, "10.0.0.2")]), Ok(("10.0.0.2".to_owned(), 30))));
    // A later step gives it the step's time first.
    let (starts, _) = run(&[("slow", 0), ("fast", 1)], names, |_| (10, true)).await;
    assert_eq!(starts, began(&[(2_000, "10.0.0.2")]));
    // A lookup is made once for all who need it.
    let (starts, _) = run(&[("fast", 0), ("fast", 1)], names, |_| (10, false)).await;
    assert_eq!(starts, began(&[(20, "10.0.0.2"), (30, "10.0.0.2")]));
}

#[tokio::test(start_paused = true)]
async fn everything_that_fails_is_told() {
    let begin = Instant::now();
    let (starts, result) =
        run(&[("nobody", 0), ("10.0.0.1", 0), ("10.0.0.2", 1)], &[], |address| match address {
            "10.0.0.1" => BLACK_HOLE,
            _ => (3, false),
        })
        .await;
    assert_eq!(starts.len(), 2);
    let failures = result.unwrap_err();
    assert_eq!(failures, ["no such name", "connection refused", "no answer within 10000 ms"]);
    assert_eq!(begin.elapsed(), PACE.limit);
}

#[tokio::test(start_paused = true)]
async fn attempts_at_once_and_addresses_of_a_name_are_bounded() {
    let hosts: Vec<String> = (0..40).map(|i| format!("10.0.1.{i}")).collect();
    let runners: Vec<(&str, u32)> = hosts.iter().map(|host| (host.as_str(), 0)).collect();
    let (starts, result) = run(&runners, &[], |_| BLACK_HOLE).await;
    // The first sixteen begin within four seconds, the others when those were given up.
    assert_eq!(starts.iter().filter(|(at, _)| *at < 10_000).count(), ATTEMPTS_MAX);
    assert_eq!((starts.len(), result.unwrap_err().len()), (40, 40));
    let addresses: Vec<IpAddr> = (0..40).map(|i| IpAddr::from([10, 0, 2, i])).collect();
    let runner = Runner { host: "h".into(), port: 1, step: 0 };
    let lookup = |_| {
        let addresses = addresses.clone();
        async move { Ok(addresses) }
    };
    let connect = |_, _| async { Err::<(), _>(io::ErrorKind::ConnectionRefused.into()) };
    let failures = race(vec![runner], PACE, lookup, connect).await.unwrap_err();
    assert_eq!(failures.len(), ADDRESSES_PER_NAME_MAX);
}
