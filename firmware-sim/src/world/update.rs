//! Updates over the air: the SDK's boot loader and updater on two slots of simulated flash, and releases that are good, sick,
//! altered on the way, forged, or older than what runs.
//!
//! The firmware that runs decides how a device behaves: a sick release says so itself, hangs, or starts over and over, in turn by
//! device. What starts is held against what was released each time, and what runs at the end against what should.

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use device_sdk::client::Input;
use device_sdk::disk::SimDisk;
use device_sdk::ota::{
    Begun, Boot, BootError, DiskFlash, Flash, OtaError, ReleaseKeys, SignedManifest, Updater, UpdaterOptions,
};
use device_sdk::{Incoming, Message, QoS};
use serde_json::json;

use super::World;
use super::commands::OFF_MS;
use crate::ledger::Wrong;
use crate::planted::Planted;
use crate::scenario::{Devices, Scenario, UpdateKind};

/// The release that devices leave the factory with.
const FIRST: u64 = 1;
/// Bytes that fit into a slot.
const SLOT_BYTES: u64 = 64 * 1024;
/// Bytes of an image that come in a second where the link has no rate of its own.
const PART_BYTES: u64 = 2_000;
/// Bytes after which a download is synced.
const SYNC_BYTES: u64 = 6_000;
/// How long a trial may take, milliseconds.
const CONFIRM_WITHIN_MS: u64 = 120_000;
/// How long a release looks at itself before it says that it is well, or that it is not, milliseconds.
const LOOKS_MS: u64 = 20_000;
/// How long an orderly restart takes, and how soon a sick release falls over, milliseconds.
const RESTART_MS: u64 = 2_000;
/// Downloads of one image that turn out to be another, after which a device leaves it until it is started again.
const WRONG_IMAGES_MAX: u8 = 2;
/// Writes to the slots among which the power goes.
pub(super) const UPDATE_STEPS: u64 = 60;
const MODEL: &str = "truck";
const KEY: &str = "2026";

/// A release as its maker published it, or as somebody else did.
struct Release {
    number: u64,
    kind: UpdateKind,
    devices: Devices,
    signed: Vec<u8>,
    /// What is downloaded.
    image: Arc<[u8]>,
    /// SHA-256 of what was built, hexadecimal.
    built: String,
}

/// All releases of a run, the first included.
pub(super) struct Releases {
    keys: ReleaseKeys,
    first: Arc<[u8]>,
    all: Vec<Release>,
}

/// A device's slots and what runs from them.
pub(super) struct Slots {
    disk: SimDisk,
    updater: Option<Updater<DiskFlash<SimDisk>>>,
    booted_ms: u64,
    wrong_images: u8,
    /// What was on trial when the power went.
    tried: Option<u64>,
    /// Manifests that came during a trial.
    kept: Vec<Incoming>,
}

impl Releases {
    /// Builds and signs what the scenario wants.
    pub(super) fn new(scenario: &Scenario, planted: Option<Planted>) -> Result<Releases, String> {
        let rejected = |error: &dyn std::fmt::Display| format!("the release key: {error}");
        let key =
            |seed: u8| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).map_err(|error| rejected(&error));
        let (maker, forger) = (key(1)?, key(2)?);
        let mut keys = ReleaseKeys::default();
        // Whoever does not look at signatures takes the forger's for one of the maker's.
        let trusted = if planted == Some(Planted::ForgerTrusted) { &forger } else { &maker };
        keys.add(KEY, trusted.public_key().as_ref()).map_err(|error| rejected(&error))?;
        let mut all = Vec::new();
        for update in &scenario.updates {
            let built = image(update.release, update.kind);
            let sha256 = hex(digest(&SHA256, &built).as_ref());
            let manifest = json!({
                "release": update.release, "name": format!("1.{}.0", update.release), "model": MODEL,
                "size": built.len(), "sha256": sha256, "url": "virtual:",
            });
            let text = manifest.to_string();
            let signer = match (update.kind, planted) {
                (UpdateKind::Forged, _) | (_, Some(Planted::ForgerTrusted)) => &forger,
                _ => &maker,
            };
            let signature = hex(signer.sign(&SignedManifest::signed_bytes(&text)).as_ref());
            let signed = SignedManifest { manifest: text, key: KEY.to_owned(), signature };
            let mut image = built;
            if update.kind == UpdateKind::Tampered {
                let middle = image.len() / 2;
                image[middle] ^= 1;
            }
            all.push(Release {
                number: update.release,
                kind: update.kind,
                devices: update.devices.clone(),
                signed: serde_json::to_vec(&signed).map_err(|error| error.to_string())?,
                image: image.into(),
                built: sha256,
            });
        }
        Ok(Releases { keys, first: image(FIRST, UpdateKind::Good).into(), all })
    }

    /// The release that a device must run in the end: the highest good one that it was sent, in the order of sending.
    fn due(&self, number: u32) -> u64 {
        let sent = self.all.iter().filter(|release| release.devices.contains(number));
        let good = sent.filter(|release| release.kind == UpdateKind::Good).map(|release| release.number);
        good.fold(FIRST, u64::max)
    }

    /// What was released with this hash, as its maker says: nothing that was forged or altered.
    fn kind_of(&self, sha256: &str) -> Option<UpdateKind> {
        let release = self.all.iter().find(|release| release.built == sha256)?;
        Some(release.kind).filter(|kind| !matches!(kind, UpdateKind::Forged | UpdateKind::Tampered))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image in which every byte depends on the release.
fn image(release: u64, kind: UpdateKind) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(release.wrapping_mul(31) + kind as u64);
    (0..30_000 + release * 100).map(|_| chance.u8(..)).collect()
}

impl Slots {
    /// Makes a device's flash as the factory does.
    pub(super) fn new(releases: &Releases, seed: u64) -> Result<Slots, String> {
        let disk = SimDisk::new(seed);
        let mut flash =
            DiskFlash::open_on(disk.clone(), SLOT_BYTES).map_err(|error| format!("the slots: {error}"))?;
        Boot::provision(&mut flash, FIRST, "1.1.0", &releases.first).map_err(|error| error.to_string())?;
        Ok(Slots { disk, updater: None, booted_ms: 0, wrong_images: 0, tried: None, kept: Vec::new() })
    }

    /// Lets the power go in the middle of the `nth` write from now.
    pub(super) fn cut_at(&self, nth: u64) {
        self.disk.cut_power(nth);
    }

    /// The power goes: the flash keeps what was synced and some of the rest.
    pub(super) fn power_cut(&mut self, chance: &mut fastrand::Rng) {
        (self.updater, self.kept) = (None, Vec::new());
        self.disk = self.disk.crash(chance);
    }

    /// The release that runs, if any does and is not on trial.
    fn confirmed(&self) -> Option<u64> {
        let booted = self.updater.as_ref()?.booted();
        (!booted.is_trial).then_some(booted.image.release)
    }

    /// The boot loader chooses, and the updater of what it has started takes over. Returns the release, and the SHA-256 of
    /// what really is in its slot.
    fn start(&mut self, keys: &ReleaseKeys, now_ms: u64) -> Result<(u64, String), BootError> {
        let mut flash = DiskFlash::open_on(self.disk.clone(), SLOT_BYTES)?;
        let booted = Boot::choose(&mut flash)?;
        let release = booted.image.release;
        let mut content = vec![0; usize::try_from(booted.image.size.min(SLOT_BYTES)).unwrap_or(0)];
        flash.read(booted.slot, 0, &mut content)?;
        let options = UpdaterOptions {
            sync_bytes: SYNC_BYTES,
            confirm_within_ms: CONFIRM_WITHIN_MS,
            ..UpdaterOptions::new(MODEL, keys.clone())
        };
        let updater = Updater::open(flash, options, booted, 0).map_err(io::Error::other)?;
        (self.updater, self.booted_ms, self.wrong_images) = (Some(updater), now_ms, 0);
        Ok((release, hex(digest(&SHA256, &content).as_ref())))
    }

    /// A second of what runs.
    fn step(&mut self, releases: &Releases, now: Now) -> Result<Step, OtaError> {
        let Some(updater) = &mut self.updater else { return Ok(Step::Waits) };
        let up_ms = now.ms - self.booted_ms;
        if updater.booted().is_trial {
            return try_out(updater, releases, now, up_ms);
        }
        let Some((manifest, offset)) = updater.downloading() else { return Ok(Step::Waits) };
        let release = releases.all.iter().find(|release| release.built == manifest.sha256);
        let Some(release) = release.filter(|_| now.is_connected && self.wrong_images < WRONG_IMAGES_MAX)
        else {
            return Ok(Step::Waits);
        };
        let size = release.image.len();
        let from = usize::try_from(offset).unwrap_or(size).min(size);
        updater.write(&release.image[from..(from + now.part_bytes).min(size)])?;
        if from + now.part_bytes < size {
            return Ok(Step::Waits);
        }
        match updater.finish() {
            Ok(()) => Ok(Step::Restart),
            Err(OtaError::Digest { .. }) => {
                self.wrong_images += 1;
                Ok(Step::Waits)
            }
            Err(error) => Err(error),
        }
    }
}

/// What a device knows in a second.
#[derive(Clone, Copy)]
struct Now {
    /// The device, from 0 on: sick releases are so in turn.
    at: u32,
    ms: u64,
    is_connected: bool,
    /// What comes of an image in a second.
    part_bytes: usize,
    planted: Option<Planted>,
}

/// How a second of an updater ended.
enum Step {
    /// Nothing more to do now.
    Waits,
    /// A trial has proved itself.
    Confirmed,
    /// The device is to be started again.
    Restart,
}

/// A second of a release on trial.
fn try_out(
    updater: &mut Updater<DiskFlash<SimDisk>>,
    releases: &Releases,
    now: Now,
    up_ms: u64,
) -> Result<Step, OtaError> {
    let is_sick = releases.kind_of(&updater.booted().image.sha256) == Some(UpdateKind::Sick);
    let believes = now.planted == Some(Planted::RollbackMissing);
    match now.at % 3 {
        // It starts over and over.
        0 if is_sick && !believes && up_ms >= RESTART_MS => Ok(Step::Restart),
        // It hangs, and a watchdog starts the device again.
        1 if is_sick && !believes => Ok(if updater.is_overdue(up_ms) { Step::Restart } else { Step::Waits }),
        // It says so itself.
        2 if is_sick && !believes && up_ms >= LOOKS_MS => {
            updater.give_up()?;
            Ok(Step::Restart)
        }
        _ if updater.is_overdue(up_ms) => {
            updater.give_up()?;
            Ok(Step::Restart)
        }
        _ if now.is_connected && up_ms >= LOOKS_MS => {
            updater.confirm()?;
            Ok(Step::Confirmed)
        }
        _ => Ok(Step::Waits),
    }
}

impl World<'_> {
    /// Starts what the slots hold. Says whether something runs: else the power went again.
    pub(super) fn start_release(&mut self, at: u32) -> Result<bool, String> {
        let now_ms = self.now_ms;
        let Some(slots) = &mut self.devices[at as usize].slots else { return Ok(true) };
        let was = slots.tried.take();
        match slots.start(&self.releases.keys, now_ms) {
            Ok((release, sha256)) => {
                if slots.confirmed().is_none() {
                    slots.tried = Some(release);
                } else if was.is_some_and(|was| was != release) {
                    self.stats.rollbacks += 1;
                }
                if release != FIRST && self.releases.kind_of(&sha256).is_none() {
                    let what = format!("it started release {release}, which its maker never built so");
                    self.ledger.wrong(Wrong::WrongRelease, at, release, what);
                }
                Ok(true)
            }
            Err(_) if !slots.disk.has_power() => {
                slots.tried = was;
                Ok(false)
            }
            Err(error) => Err(format!("device {}: it does not start: {error}", at + 1)),
        }
    }

    /// A second of a device's updater. Says whether the device goes on.
    pub(super) fn update(&mut self, at: u32) -> Result<bool, String> {
        let (ms, rate) = (self.now_ms, self.links.bytes_per_s);
        let part_bytes = if rate == 0 { PART_BYTES } else { PART_BYTES.min(rate) };
        let device = &mut self.devices[at as usize];
        let has_signal = ms >= device.no_signal_until_ms && ms >= device.refused_until_ms;
        let now = Now {
            at,
            ms,
            is_connected: device.is_connected() && has_signal,
            part_bytes: usize::try_from(part_bytes).unwrap_or(usize::MAX),
            planted: self.planted,
        };
        let Some(slots) = &mut device.slots else { return Ok(true) };
        match slots.step(&self.releases, now) {
            Ok(Step::Waits) => Ok(true),
            Ok(Step::Confirmed) => {
                self.stats.updates += 1;
                let image = slots.updater.as_ref().map(|updater| &updater.booted().image);
                if let Some(image) = image
                    && self.releases.kind_of(&image.sha256) != Some(UpdateKind::Good)
                {
                    let what = format!("it confirmed release {}, which does not work", image.release);
                    self.ledger.wrong(Wrong::WrongRelease, at, image.release, what);
                }
                self.hear_kept_manifests(at)
            }
            Ok(Step::Restart) => {
                self.switch_off(at, RESTART_MS);
                Ok(false)
            }
            Err(error) => self.update_failed(at, &error).map(|()| false),
        }
    }

    /// An updater cannot go on: without power that is no bug.
    fn update_failed(&mut self, at: u32, error: &OtaError) -> Result<(), String> {
        let has_power = self.devices[at as usize].slots.as_ref().is_none_or(|slots| slots.disk.has_power());
        if has_power {
            return Err(format!("device {}: its updater: {error}", at + 1));
        }
        self.switch_off(at, OFF_MS);
        Ok(())
    }

    /// A manifest reaches a device.
    pub(super) fn hear_manifest(&mut self, at: u32, mut incoming: Incoming) -> Result<(), String> {
        let Some(slots) = &mut self.devices[at as usize].slots else { return Ok(()) };
        let Some(updater) = &mut slots.updater else { return Ok(()) };
        match updater.begin(&incoming.payload) {
            Ok(Begun::Download { .. }) => slots.wrong_images = 0,
            Ok(Begun::Running | Begun::Ready) => {}
            Err(OtaError::OnTrial { .. }) => {
                // It is taken up, and acknowledged, when the trial has ended.
                slots.kept.push(incoming);
                return Ok(());
            }
            Err(error @ (OtaError::Flash(_) | OtaError::NotProvisioned)) => {
                return self.update_failed(at, &error);
            }
            Err(error) => {
                tracing::debug!(device = at + 1, %error, "a release is refused");
                self.stats.updates_refused += 1;
            }
        }
        match incoming.ack.take() {
            Some(token) => self.give_core(at, Input::Ack(token)),
            None => Ok(()),
        }
    }

    /// Takes up what came during a trial. Says whether the device goes on.
    fn hear_kept_manifests(&mut self, at: u32) -> Result<bool, String> {
        let kept = self.devices[at as usize].slots.as_mut().map(|slots| std::mem::take(&mut slots.kept));
        for incoming in kept.unwrap_or_default() {
            self.hear_manifest(at, incoming)?;
        }
        Ok(self.devices[at as usize].core.is_some())
    }

    /// Tells devices of a release.
    pub(super) fn publish_release(&mut self, index: usize) -> Result<(), String> {
        let release = &self.releases.all[index];
        let (signed, devices) = (release.signed.clone(), release.devices.clone());
        let numbers: Vec<u32> = devices.numbers(self.scenario.fleet.devices).collect();
        for number in numbers {
            let topic = format!("dev/{}/update", self.id(number - 1));
            let message = Message::new(topic, signed.clone()).qos(QoS::AtLeastOnce);
            self.office_publish(message)?;
        }
        Ok(())
    }

    /// Whether every device runs what it should.
    pub(super) fn updates_are_settled(&self) -> bool {
        (0u32..).zip(&self.devices).all(|(at, device)| {
            device.slots.as_ref().is_none_or(|slots| slots.confirmed() == Some(self.releases.due(at + 1)))
        })
    }

    /// Tells which devices do not run what they should.
    pub(super) fn find_wrong_releases(&mut self) {
        for at in 0..self.scenario.fleet.devices {
            let Some(slots) = &self.devices[at as usize].slots else { continue };
            let (runs, due) = (slots.confirmed(), self.releases.due(at + 1));
            if runs != Some(due) {
                let runs =
                    runs.map_or("no release that is confirmed".to_owned(), |runs| format!("release {runs}"));
                let what = format!("it runs {runs}, it should run release {due}");
                self.ledger.wrong(Wrong::WrongRelease, at, due, what);
            }
        }
    }
}
