//! A device that is a process: the gateway program as it is, its receiver and its lock on pseudo terminals.
//!
//! The simulated receiver speaks once a second; what it spoke are the records. Nobody outside sees which of them the gateway has on disk, so
//! one counts as accepted when it was heard and the power stayed for a while. The power goes as `kill -9`, after the link has gone silent.

mod lines;
mod nmea;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracks::fence::Fence;

use super::life::{Life, Senses, lives};
use super::stage::Stage;
use crate::lock::{LOCK, UNLOCK};
use crate::scenario::timetable::{Happening, timetable};
use lines::{GpsLine, LockLine, Obeys, Told};

/// The most gateways of a run: each is a process with two lines.
pub(super) const GATEWAYS_MAX: u32 = 50;
/// Records that may be spoken while a gateway starts, and that it may have heard and not on disk when its power goes.
pub(super) const UNHEARD_MAX: u64 = 13;
/// So long after switching on a gateway hears its receiver, at the latest, milliseconds.
pub(super) const HEARS_AFTER_MS: u64 = 10_000;
/// So long after it was spoken a record is on disk, milliseconds.
pub(super) const TAKEN_AFTER_MS: u64 = 3_000;
/// How long the power is away when it goes in the middle of a command, milliseconds.
const OFF_MS: u64 = 5_000;
/// How long tracks wait to share a write, milliseconds.
const GROUP_MS: u64 = 200;
/// The longest end of a gateway's log that is told.
const LOG_BYTES_TOLD: usize = 600;
const WEEK_MS: i64 = 7 * 24 * 3_600_000;

/// Lives a gateway's lives, until the run ends.
pub(super) async fn live(stage: Arc<Stage>, at: u32, boot_ms: u64, program: PathBuf) {
    if let Err(error) = Vehicle::new(&stage, at, program).run(boot_ms).await {
        stage.break_off(format!("gateway {}: {error}", at + 1));
    }
}

/// What hangs on the lines of a gateway, and survives its power.
struct Vehicle {
    stage: Arc<Stage>,
    at: u32,
    program: PathBuf,
    senses: Senses,
    /// The power is to go with the next command.
    is_armed: Arc<AtomicBool>,
}

impl Vehicle {
    fn new(stage: &Arc<Stage>, at: u32, program: PathBuf) -> Vehicle {
        let senses = Senses::new(&stage.scenario, at + 1, stage.seed);
        Vehicle { stage: stage.clone(), at, program, senses, is_armed: Arc::default() }
    }

    async fn run(mut self, boot_ms: u64) -> io::Result<()> {
        let (stage, at) = (self.stage.clone(), self.at);
        let (cut, mut cuts) = mpsc::channel(1);
        let gps = GpsLine::open()?;
        let lock = LockLine::open(lock(stage.clone(), at, self.is_armed.clone(), cut))?;
        let folder = stage.data_dir.join(format!("device-{}", at + 1));
        let config = configure(&stage, at, &folder, &gps.path, &lock.path)?;
        let arming = tokio::spawn(arm(stage.clone(), at + 1, self.is_armed.clone()));
        let _arming = AbortOnDrop(arming.abort_handle());
        for life in lives(&stage.scenario, stage.seed, at + 1, boot_ms) {
            let mut from_ms = Some(life.from_ms);
            // Power that goes in the middle of a command is back before the planned end of this life, or not in it.
            while let Some(ms) = from_ms.filter(|ms| life.to_ms.is_none_or(|to_ms| *ms < to_ms)) {
                sleep_until(stage.time.at(ms)).await;
                let gateway = Gateway::start(&self.program, &config, &folder)?;
                let life = Life { from_ms: ms, ..life };
                from_ms = self.live(gateway, &gps, life, &mut cuts).await?;
            }
        }
        Ok(())
    }

    /// Lives one life; returns when the next begins, if the power went in the middle of a command.
    async fn live(
        &mut self,
        mut gateway: Gateway,
        gps: &GpsLine,
        life: Life,
        cuts: &mut mpsc::Receiver<()>,
    ) -> io::Result<Option<u64>> {
        let stage = self.stage.clone();
        self.senses.switch_on();
        stage.books().spoken.begin_life(self.at, life.from_ms);
        // Power that went as planned may have been to go with a command at the same moment.
        while cuts.try_recv().is_ok() {}
        let mut ms = life.from_ms.next_multiple_of(1_000);
        let next_ms = loop {
            let until_ms = life.to_ms.map_or(ms, |to_ms| to_ms.min(ms));
            tokio::select! {
                () = sleep_until(stage.time.at(until_ms)) => {}
                Some(()) = cuts.recv() => break Some(stage.time.now_ms() + OFF_MS),
            }
            if life.to_ms.is_some_and(|to_ms| ms >= to_ms) {
                break None;
            }
            gateway.still_runs()?;
            self.second(gps, ms);
            ms += 1_000;
        };
        // First the link, so that nothing of what the system says for a dead process is heard.
        stage.ways[self.at as usize].power_cut();
        gateway.kill()?;
        let now_ms = stage.time.now_ms();
        let books = &mut *stage.books();
        books.power_cuts += 1;
        books.accept_spoken(self.at, now_ms);
        Ok(next_ms)
    }

    /// A second: the receiver speaks.
    fn second(&mut self, gps: &GpsLine, ms: u64) {
        let (stage, at) = (&self.stage, self.at);
        let (scenario, ride) = (&stage.scenario, &stage.rides[at as usize]);
        let fix = self.senses.observe(scenario, ride, ms);
        // What its receiver believes: the week may have rolled over.
        let unix_ms = i64::try_from(stage.time.unix_ms(ms)).unwrap_or(i64::MAX);
        let believed_ms = unix_ms - i64::from(scenario.gps.weeks_back) * WEEK_MS;
        gps.say(nmea::sentences(believed_ms, fix.as_ref()));
        if ride.has_arrived(ms / 1_000) && scenario.expect.arrivals_min.is_some() {
            stage.books().arrived.insert(at);
        }
        if let Some(fix) = fix.filter(|_| ms <= scenario.duration_s * 1_000) {
            let number = stage.make(at, ms, &fix);
            stage.books().spoken.spoke(at, ms, number, fix);
        }
        stage.books().accept_spoken(at, ms);
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Arms the power cuts that come in the middle of a command.
async fn arm(stage: Arc<Stage>, number: u32, is_armed: Arc<AtomicBool>) {
    let mut moments: Vec<u64> = timetable(&stage.scenario, stage.seed)
        .into_iter()
        .filter_map(|(ms, happening)| {
            let Happening::PowerCut(index) = happening else { return None };
            let cut = &stage.scenario.power_cuts[index];
            (cut.in_command && cut.devices.contains(number)).then_some(ms)
        })
        .collect();
    moments.sort_unstable();
    for ms in moments {
        sleep_until(stage.time.at(ms)).await;
        is_armed.store(true, Ordering::Relaxed);
    }
}

/// What a lock does when it is told something: it moves, is held against the truth, and its power goes where it is armed.
fn lock(
    stage: Arc<Stage>,
    at: u32,
    is_armed: Arc<AtomicBool>,
    cut: mpsc::Sender<()>,
) -> impl FnMut(Told) -> Obeys + Send + 'static {
    move |told| {
        let is_cut = is_armed.swap(false, Ordering::Relaxed);
        // Before it moves, before it answers, and right after: in turn by device.
        let obeys = match at % 3 {
            0 if is_cut => Obeys::No,
            1 if is_cut => Obeys::Unanswered,
            _ => Obeys::Yes,
        };
        if obeys != Obeys::No {
            stage.lock_moves(at, if told == Told::Unlock { UNLOCK } else { LOCK });
        }
        if is_cut {
            // One that waits already is enough.
            let _ = cut.try_send(());
        }
        obeys
    }
}

/// Writes a gateway's configuration; returns its file.
fn configure(stage: &Stage, at: u32, folder: &Path, gps: &str, lock: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let mut text = format!(
        "device = {:?}\ndata_dir = \"data\"\n[broker]\naddress = \"{}\"\nkeep_alive_s = {}\n",
        stage.id(at),
        stage.ways[at as usize].address(),
        stage.scenario.fleet.keep_alive_s
    );
    if let Some(username) = &stage.username {
        text += &format!("username = {}\n", toml::Value::from(username.as_str()));
    }
    if let Some(password) = &stage.password {
        let mut file =
            File::options().create_new(true).write(true).mode(0o600).open(folder.join("password"))?;
        file.write_all(password)?;
        text += "password_file = \"password\"\n";
    }
    text += &format!(
        "[queue]\nbytes_max = 16777216\ngroup_ms = {GROUP_MS}\n[gps]\npath = {gps:?}\n[lock]\npath = {lock:?}\n"
    );
    let Fence::Circle(circle) = &stage.rides[at as usize].journey.fence else {
        return Err(io::Error::other("its fence is no circle"));
    };
    let (centre, radius_m) = (circle.centre(), circle.radius_m());
    text += &format!(
        "fence = {{ lat = {:.9}, lon = {:.9}, radius_m = {radius_m:.3} }}\n",
        centre.lat, centre.lon
    );
    let file = folder.join("gateway.toml");
    fs::write(&file, text)?;
    Ok(file)
}

/// A running gateway; it ends with this.
struct Gateway {
    child: Child,
    log: PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "a gateway could not be ended");
        }
    }
}

impl Gateway {
    fn start(program: &Path, config: &Path, folder: &Path) -> io::Result<Gateway> {
        let log = folder.join("gateway.log");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(program)
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|error| io::Error::other(format!("{} does not start: {error}", program.display())))?;
        Ok(Gateway { child, log })
    }

    /// Looks whether it ended by itself, which it must not.
    fn still_runs(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read(&self.log)?;
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_BYTES_TOLD)..]).into_owned();
        Err(io::Error::other(format!("it ended by itself ({status}); the end of its log:\n{end}")))
    }

    /// Its power goes.
    fn kill(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}
