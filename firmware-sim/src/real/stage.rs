//! What all parts of a run in real time see.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::books::Books;
use super::gateway::UNHEARD_MAX;
use super::life::lives_max;
use super::office::{Office, Place};
use super::{BrokerProcess, Options, RealError, Timebase};
use crate::ledger::{Ledger, mix};
use crate::link_proxy::{Counts, Network, Proxy};
use crate::ride::{self, Ride};
use crate::scenario::timetable::boots_ms;
use crate::scenario::{Links, Scenario};
use crate::watch::Watch;
use crate::world::{PREFIX, Run};

/// How long the office may take to be there.
const OFFICE_PATIENCE: Duration = Duration::from_secs(20);
/// What chance of links begins with, so that it is not that of receivers.
const LINKS_SEED: u64 = 0x4c49_4e4b;

/// The stage.
pub(super) struct Stage {
    pub(super) scenario: Scenario,
    pub(super) seed: u64,
    pub(super) rides: Vec<Ride>,
    pub(super) time: Timebase,
    /// From the scenario's date to today's, milliseconds.
    pub(super) shift_ms: i64,
    /// Names of devices are this and a number.
    pub(super) prefix: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) data_dir: PathBuf,
    /// Whether devices are processes of their own.
    pub(super) has_gateways: bool,
    pub(super) network: Arc<Network>,
    /// Each device's way to the broker.
    pub(super) ways: Vec<Proxy>,
    /// The office's, which is good: it is open as long as this is.
    _office_way: Proxy,
    /// Why the run cannot go on.
    pub(super) broken: watch::Sender<Option<String>>,
    books: Mutex<Books>,
}

/// How long the broker keeps sessions: over the run, and not for ever on a broker that is somebody else's.
pub(super) fn session_expiry_s(scenario: &Scenario) -> u32 {
    u32::try_from(scenario.end_ms() / 1_000 + 600).unwrap_or(u32::MAX)
}

/// What only one part has.
pub(super) struct Parts {
    pub(super) office: Office,
    pub(super) process: Option<Box<dyn BrokerProcess>>,
    /// The gateway program, if devices are processes.
    pub(super) gateway: Option<PathBuf>,
    /// When each device is first switched on.
    pub(super) boots_ms: Vec<u64>,
}

impl Stage {
    /// Opens all ways and the office; the run begins with the next second.
    pub(super) async fn build(run: Run<'_>, options: Options) -> Result<(Arc<Stage>, Parts), RealError> {
        let (mut scenario, seed) = (run.scenario.clone(), run.seed);
        let rides = ride::rides(&scenario, run.routes, seed)?;
        // On a broker that is not the run's own there may be sessions of an earlier run.
        let prefix = match options.process {
            Some(_) => PREFIX.to_owned(),
            None => format!("{PREFIX}{:08x}-", fastrand::u32(..)),
        };
        let broker = Arc::new(watch::Sender::new(options.broker));
        let network = |time, links: Links, connects_per_s| {
            let counts = Mutex::new(Counts::default());
            let nat_timeout_ms = AtomicU64::new(links.nat_timeout_s * 1_000);
            Arc::new(Network { time, links, nat_timeout_ms, broker: broker.clone(), connects_per_s, counts })
        };
        let good = Links { delay_ms: 0, jitter_ms: 0, loss_percent: 0.0, ..Links::default() };
        let office_way =
            Proxy::open(network(Timebase::now(), good, 0), seed).await.map_err(RealError::Links)?;
        let office = Office::open(
            Place {
                address: office_way.address(),
                client_id: format!("{prefix}office"),
                username: options.username.clone(),
                password: options.password.clone(),
                session_expiry_s: session_expiry_s(&scenario),
            },
            OFFICE_PATIENCE,
        );
        // Before time begins: it may take a while.
        let office = office.await?;
        let time = Timebase::next_second();
        let network = network(time, scenario.link.clone(), scenario.broker.connects_per_s);
        let mut ways = Vec::new();
        for number in 1..=u64::from(scenario.fleet.devices) {
            let steals_at = options.steals_at.filter(|_| number == 1);
            let seed = mix(seed ^ LINKS_SEED, number);
            ways.push(Proxy::open_with(network.clone(), seed, steals_at).await.map_err(RealError::Links)?);
        }
        let has_gateways = options.gateway.is_some();
        let boots_ms: Vec<u64> = boots_ms(&scenario, seed).collect();
        let mut ledger = Ledger::of(&scenario.fleet);
        if has_gateways {
            ledger = ledger.in_any_order();
            // What is spoken while a gateway starts, and right before its power goes, may be heard or not.
            let lives =
                (1u32..).zip(&boots_ms).map(|(number, boot_ms)| lives_max(&scenario, seed, number, *boot_ms));
            scenario.expect.refused_max += UNHEARD_MAX * lives.sum::<u64>();
        }
        let books = Books { ledger, watch: Some(Watch::new(&scenario.expect)), ..Books::default() };
        let date = |unix_ms: u64| i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let parts = Parts { office, process: options.process, gateway: options.gateway, boots_ms };
        let stage = Stage {
            shift_ms: date(time.unix_ms(0)) - date(scenario.start_unix_s * 1_000),
            scenario,
            seed,
            rides,
            time,
            prefix,
            username: options.username,
            password: options.password,
            data_dir: options.data_dir,
            has_gateways,
            network,
            ways,
            _office_way: office_way,
            broken: watch::Sender::new(None),
            books: Mutex::new(books),
        };
        Ok((Arc::new(stage), parts))
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a device.
    pub(super) fn id(&self, at: u32) -> String {
        format!("{}{}", self.prefix, at + 1)
    }

    /// The device of a name.
    pub(super) fn place_of(&self, id: &str) -> Option<u32> {
        let number: u32 = id.strip_prefix(&self.prefix)?.parse().ok()?;
        number.checked_sub(1).filter(|at| *at < self.scenario.fleet.devices)
    }

    /// The run cannot go on; the first to say so is heard.
    pub(super) fn break_off(&self, why: String) {
        self.broken.send_if_modified(|broken| {
            let is_first = broken.is_none();
            broken.get_or_insert(why);
            is_first
        });
    }
}
