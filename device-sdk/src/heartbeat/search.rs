//! The search for the longest silence that a network path survives.
//!
//! It owns what silences did and says which to try next; it knows neither time nor connections. Silences are whole
//! seconds. What is longer than a silence that failed is taken to fail too, and what is shorter than one that was
//! survived to be survived; what contradicts this makes the older findings void.
//!
//! ```text
//!                  a silence fails              the bounds are near         each bound seen twice
//!   exponential ───────────────────▶ narrowing ──────────────────▶ confirming ──────────────────▶ settled
//!        ▲                               │  ▲                          │ │                           │
//!        └── no failure is left ─────────┴──┴── a finding contradicted ┴─┘         a recheck ────────┘
//! ```

/// Silences that are tried at once, each on a connection of its own.
pub(crate) const AT_ONCE_MAX: usize = 4;
/// Silences tried until the search ends with what it has: a path that changes all the time has no bound to find.
const TRIED_MAX: u32 = 100;
/// Findings kept of each kind.
const KEPT_MAX: usize = 4;

/// How the exponential search grows: two steps double the silence.
const GROWTH: f64 = std::f64::consts::SQRT_2;
/// Bounds this near each other are worth confirming.
const NEAR: f64 = 0.9;
/// Bounds this near leave room for a confirmation beside the points between them.
const WITH_CONFIRMATION: f64 = 0.86;
/// Confirmed bounds this near each other end the search: with the margin of the interval, 0.85, it is at least 0.75 of
/// what the path survives.
const SETTLED: f64 = 0.885;
/// How steps of the main connection grow, where a failure costs a drop: so slowly that the first one ends the search, with
/// 0.85 / 1.125 of what the path survives at least. The sum of all steps is ten times the last.
const STEP_GROWTH: f64 = 1.125;

/// Where silences are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// On connections of their own, several at once.
    Probes,
    /// On the main connection, one at a time: nothing is repeated to confirm it, since the next failure would cost a drop too.
    Steps,
}

/// Findings and bounds of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    floor_s: u32,
    ceiling_s: u32,
    /// What others found, to begin near it.
    hint_s: Option<u32>,
    /// The longest first.
    survived: Vec<u32>,
    /// The shortest first.
    failed: Vec<u32>,
    tried: u32,
}

impl Search {
    /// Begins between two bounds: shorter silences are not of interest, longer ones not allowed.
    pub(crate) fn new(floor_s: u32, ceiling_s: u32, hint_s: Option<u32>) -> Self {
        let ceiling_s = ceiling_s.max(floor_s);
        let hint_s = hint_s.map(|hint_s| hint_s.min(ceiling_s)).filter(|hint_s| *hint_s > floor_s);
        Self { floor_s, ceiling_s, hint_s, survived: Vec::new(), failed: Vec::new(), tried: 0 }
    }

    /// Goes on with findings of another time.
    pub(crate) fn with_findings(mut self, survived: &[u32], failed: &[u32]) -> Self {
        failed.iter().for_each(|s| self.failed(*s));
        survived.iter().for_each(|s| self.survived(*s));
        self.tried = 0;
        self
    }

    /// Begins anew between the same bounds.
    pub(crate) fn fresh(&self, hint_s: Option<u32>) -> Self {
        Self::new(self.floor_s, self.ceiling_s, hint_s)
    }

    /// Changes the bounds; what was found beyond them is held to them.
    pub(crate) fn limit(&mut self, floor_s: u32, ceiling_s: u32, hint_s: Option<u32>) {
        let hint_s = self.hint_s.or(hint_s);
        let (survived, failed) = (std::mem::take(&mut self.survived), std::mem::take(&mut self.failed));
        *self = Self { tried: self.tried, ..Self::new(floor_s, ceiling_s, hint_s) };
        self.survived = survived.into_iter().map(|s| s.min(self.ceiling_s)).collect();
        self.failed = failed.into_iter().filter(|s| *s <= self.ceiling_s).collect();
    }

    /// The longest silences survived and the shortest ones that failed.
    pub(crate) fn findings(&self) -> (&[u32], &[u32]) {
        (&self.survived, &self.failed)
    }

    pub(crate) fn survived(&mut self, silence_s: u32) {
        self.tried += 1;
        self.failed.retain(|s| *s > silence_s);
        self.survived.push(silence_s.min(self.ceiling_s));
        self.survived.sort_unstable_by(|a, b| b.cmp(a));
        self.survived.truncate(KEPT_MAX);
    }

    pub(crate) fn failed(&mut self, silence_s: u32) {
        self.tried += 1;
        self.survived.retain(|s| *s < silence_s);
        self.failed.push(silence_s);
        self.failed.sort_unstable();
        self.failed.truncate(KEPT_MAX);
    }

    /// The longest silence survived twice, or the floor.
    pub(crate) fn proven_s(&self) -> u32 {
        self.survived.get(1).copied().unwrap_or(0).max(self.floor_s)
    }

    /// The silence that counts as survived, seconds.
    pub(crate) fn bound_s(&self, way: Way) -> u32 {
        match way {
            Way::Probes => self.proven_s(),
            Way::Steps => self.longest_s(),
        }
    }

    fn longest_s(&self) -> u32 {
        self.survived.first().copied().unwrap_or(0).max(self.floor_s)
    }

    pub(crate) fn is_settled(&self, way: Way) -> bool {
        let bound_s = self.bound_s(way);
        if bound_s >= self.ceiling_s || self.tried >= TRIED_MAX {
            return true;
        }
        match (way, self.failed.as_slice()) {
            (Way::Probes, [_, failed_s, ..]) => {
                ratio(bound_s, *failed_s) >= SETTLED || failed_s.saturating_sub(bound_s) <= 1
            }
            (Way::Steps, [_, ..]) => true,
            _ => false,
        }
    }

    /// Makes a settled search look again: it forgets one of the two confirmations of each bound.
    pub(crate) fn recheck(&mut self, way: Way) {
        self.tried = 0;
        self.survived.truncate(1);
        self.failed.truncate(usize::from(way == Way::Probes));
    }

    /// Returns which silences to begin now, given those that are being tried.
    pub(crate) fn next(&self, way: Way, running: &[u32]) -> Vec<u32> {
        if self.is_settled(way) {
            return Vec::new();
        }
        let slots = AT_ONCE_MAX.saturating_sub(running.len());
        match (way, self.failed.first()) {
            (Way::Steps, _) => vec![self.step()],
            (Way::Probes, None) => self.rungs(slots, running),
            (Way::Probes, Some(failed_s)) if running.is_empty() => self.round(*failed_s),
            // What runs may change the bounds.
            (Way::Probes, Some(_)) => Vec::new(),
        }
    }

    /// Whether a silence that is being tried cannot tell anything any more.
    pub(crate) fn is_moot(&self, silence_s: u32) -> bool {
        // A little above what failed it is the failure's confirmation.
        self.failed.first().is_some_and(|failed_s| ratio(*failed_s, silence_s) < NEAR)
    }

    /// Exponential: each rung above the last one, until one fails.
    fn rungs(&self, slots: usize, running: &[u32]) -> Vec<u32> {
        let mut top_s = running.iter().copied().fold(self.longest_s(), u32::max);
        let at_ceiling = [running, &self.survived].concat().iter().filter(|s| **s >= self.ceiling_s).count();
        let mut rungs: Vec<u32> = Vec::new();
        while rungs.len() < slots {
            if top_s >= self.ceiling_s {
                let confirmations = at_ceiling + rungs.iter().filter(|s| **s >= self.ceiling_s).count();
                if confirmations >= 2 {
                    break;
                }
            } else if self.hint_s.is_some_and(|hint_s| top_s >= hint_s && self.longest_s() < hint_s) {
                // What is beyond the hint is of interest once it is survived.
                break;
            } else {
                top_s = self.rung_above(top_s);
            }
            rungs.push(top_s);
        }
        rungs
    }

    fn rung_above(&self, top_s: u32) -> u32 {
        let grown_s = scaled(top_s, GROWTH).max(top_s + 1);
        let rung_s = match self.hint_s {
            // Four rungs lead to the hint, so that it is reached in one go and a wrong one is noticed early.
            Some(hint_s) if top_s < hint_s / 8 => hint_s / 8,
            Some(hint_s) if top_s < hint_s => top_s.saturating_mul(2).max(grown_s).min(hint_s),
            _ => grown_s,
        };
        rung_s.min(self.ceiling_s)
    }

    /// Narrowing and confirming: points between the bounds at equal ratios, and what needs confirmation.
    fn round(&self, failed_s: u32) -> Vec<u32> {
        let longest_s = self.longest_s();
        let between = ratio(longest_s, failed_s);
        let mut round = Vec::new();
        if between < NEAR {
            // Where three points are enough to settle, the fourth probe is a confirmation.
            round.extend((self.failed.len() == 1 && between >= WITH_CONFIRMATION).then_some(failed_s));
            let points = AT_ONCE_MAX - round.len();
            let step = (f64::from(failed_s) / f64::from(longest_s)).powf(1.0 / (points + 1) as f64);
            let mut last_s = longest_s;
            for n in 1..=points {
                let point_s = scaled(longest_s, step.powi(n as i32));
                if point_s > last_s && point_s < failed_s {
                    round.push(point_s);
                    last_s = point_s;
                }
            }
        }
        if round.is_empty() {
            let is_confirmed = longest_s <= self.floor_s || self.survived.get(1) == Some(&longest_s);
            round.extend((!is_confirmed).then_some(longest_s));
            round.extend((self.failed.get(1) != Some(&failed_s)).then_some(failed_s));
        }
        round
    }

    /// The one silence to keep on the main connection next.
    fn step(&self) -> u32 {
        // Cut, not rounded: the growth is a promise.
        let grown_s = (f64::from(self.longest_s()) * STEP_GROWTH) as u32;
        grown_s.max(self.longest_s() + 1).min(self.ceiling_s)
    }
}

fn ratio(lower_s: u32, upper_s: u32) -> f64 {
    f64::from(lower_s) / f64::from(upper_s.max(1))
}

fn scaled(silence_s: u32, factor: f64) -> u32 {
    // Both are small; the cast saturates.
    (f64::from(silence_s) * factor).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries what the search wants on a path that forgets after `timeout_s`; returns how many silences were tried.
    fn run(search: &mut Search, way: Way, timeout_s: u32) -> usize {
        let mut tried = 0;
        let mut running: Vec<u32> = Vec::new();
        while !search.is_settled(way) {
            running.extend(search.next(way, &running));
            assert!(!running.is_empty() && running.len() <= AT_ONCE_MAX, "{search:?} {running:?}");
            running.sort_unstable();
            let silence_s = running.remove(0);
            tried += 1;
            if silence_s < timeout_s {
                search.survived(silence_s)
            } else {
                search.failed(silence_s)
            }
            running.retain(|s| !search.is_moot(*s));
            assert!(tried < 200, "{search:?}");
        }
        tried
    }

    #[test]
    fn every_timeout_is_found_from_below_with_few_tries() {
        for way in [Way::Probes, Way::Steps] {
            for hint_s in [None, Some(40), Some(900)] {
                for timeout_s in 16..=9_000 {
                    let mut search = Search::new(15, 7_200, hint_s);
                    let tried = run(&mut search, way, timeout_s);
                    let (proven, most) = (search.bound_s(way), timeout_s.min(7_201));
                    assert!(proven < most, "{timeout_s} {search:?}");
                    let (near, tries) =
                        if way == Way::Probes { (SETTLED * 0.99, 35) } else { (1.0 / STEP_GROWTH, 70) };
                    // Silences are whole seconds.
                    assert!(ratio(proven + 1, most) >= near || proven == 15, "{timeout_s} {search:?}");
                    assert!(tried <= tries, "{timeout_s}: {tried}");
                    assert!(way == Way::Probes || search.failed.len() <= 1, "one drop: {search:?}");
                }
            }
        }
    }

    #[test]
    fn a_failure_by_chance_is_corrected() {
        for unlucky in 0..12 {
            let mut search = Search::new(15, 7_200, None);
            let mut running: Vec<u32> = Vec::new();
            let mut tried = 0;
            while !search.is_settled(Way::Probes) {
                running.extend(search.next(Way::Probes, &running));
                running.sort_unstable();
                let silence_s = running.remove(0);
                if silence_s < 300 && tried != unlucky {
                    search.survived(silence_s);
                } else {
                    search.failed(silence_s);
                }
                running.retain(|s| !search.is_moot(*s));
                tried += 1;
            }
            assert!((265..300).contains(&search.proven_s()), "{unlucky}: {search:?}");
        }
    }

    #[test]
    fn a_path_that_changes_all_the_time_ends_the_search() {
        let mut search = Search::new(15, 7_200, None);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..=TRIED_MAX {
            for silence_s in search.next(Way::Probes, &[]) {
                // No bound can be seen twice.
                search.failed.truncate(1);
                search.survived.clear();
                if rng.bool() { search.survived(silence_s) } else { search.failed(silence_s) }
            }
        }
        assert!(search.is_settled(Way::Probes) && search.next(Way::Probes, &[]).is_empty());
    }

    #[test]
    fn a_recheck_keeps_unchanged_bounds_with_two_probes_and_finds_changed_ones() {
        for (now_s, expected_tries) in [(300, Some(2)), (120, None), (1_700, None)] {
            let mut search = Search::new(15, 7_200, None);
            run(&mut search, Way::Probes, 300);
            search.recheck(Way::Probes);
            assert!(!search.is_settled(Way::Probes));
            let tried = run(&mut search, Way::Probes, now_s);
            assert!(expected_tries.is_none_or(|tries| tries == tried), "{now_s}: {tried}");
            assert!(ratio(search.proven_s(), now_s) >= 0.88 && search.proven_s() < now_s, "{search:?}");
        }
    }
}
