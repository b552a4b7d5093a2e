//! The task that updates: proves the release that is on trial, then takes what is wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use device_sdk::clock::DeviceClock;
use device_sdk::ota::{
    Begun, Boot, DiskFlash, DownloadError, HttpSource, OtaError, Slot, Updater, UpdaterOptions, download,
};
use device_sdk::twin::TwinRunner;
use device_sdk::{Backoff, TlsOptions};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::config::Update;
use crate::state::{UpdateEnd, Wish};

/// Pauses after a download that did not come to its end: every image is asked for a few times a day at least.
const AGAIN: Backoff = Backoff { min_ms: 30_000, max_ms: 3_600_000 };
/// A trial is looked at this often until it is over.
const TRIAL_LOOK: Duration = Duration::from_secs(1);

/// What the task says.
#[derive(Debug)]
pub(crate) enum News {
    /// To be reported.
    State { firmware: Value, end: UpdateEnd },
    /// The gateway is to end, so that another image starts.
    Restart,
}

/// Takes updates.
pub(crate) struct UpdateTask {
    pub(crate) updater: Arc<Mutex<Updater<DiskFlash>>>,
    pub(crate) tls: TlsOptions,
    pub(crate) clock: DeviceClock,
    pub(crate) twin: Arc<TwinRunner>,
    pub(crate) is_connected: watch::Receiver<bool>,
    pub(crate) wishes: watch::Receiver<Wish>,
    pub(crate) news: mpsc::Sender<News>,
}

/// Opens the slots for the program that runs from one of them.
pub(crate) fn open(update: &Update, slot: Slot, clock: &DeviceClock) -> anyhow::Result<Updater<DiskFlash>> {
    let flash = update.flash()?;
    let booted = Boot::started(&flash, slot).context("update.slots")?;
    let mut options = UpdaterOptions::new(&update.model, update.release_keys()?);
    options.confirm_within_ms = update.confirm_within_s * 1_000;
    Updater::open(flash, options, booted, clock.monotonic_ms()).context("update.slots")
}

impl UpdateTask {
    /// Runs until another image is to start, or the gateway ends.
    pub(crate) async fn run(mut self) {
        match self.work().await {
            Ok(()) => drop(self.news.send(News::Restart).await),
            Err(error) => tracing::error!(%error, "no more updates are taken: the slots cannot be used"),
        }
    }

    async fn work(&mut self) -> Result<(), OtaError> {
        self.tell(UpdateEnd::None).await;
        if !self.prove().await? {
            return Ok(());
        }
        let mut pause_ms = 0;
        loop {
            let wish = self.wishes.borrow_and_update().clone();
            let (end, is_over) = match wish {
                None => (UpdateEnd::None, true),
                Some(signed) => match self.follow(&signed).await? {
                    Followed::Ready => return Ok(()),
                    Followed::Running => (UpdateEnd::Done, true),
                    Followed::Refused(why) => (UpdateEnd::Refused(why), true),
                    Followed::Later(why) => (UpdateEnd::Refused(why), false),
                },
            };
            self.tell(end).await;
            pause_ms = if is_over { 0 } else { AGAIN.next_ms(pause_ms, fastrand::u64(..)) };
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() {
                    // The gateway ends.
                    return std::future::pending().await;
                },
                () = tokio::time::sleep(Duration::from_millis(pause_ms)), if !is_over => {}
            }
        }
    }

    /// A release on trial is confirmed when the broker has taken what it reports; false when it is given up.
    async fn prove(&mut self) -> Result<bool, OtaError> {
        if !self.updater().booted().is_trial {
            return Ok(true);
        }
        let firmware = self.updater().state();
        if let Err(error) = self.twin.report(json!({ "firmware": firmware })).await {
            tracing::error!(%error, "the trial was not reported");
        }
        let (twin, mut is_connected) = (self.twin.clone(), self.is_connected.clone());
        let proved = async {
            if is_connected.wait_for(|is| *is).await.is_ok() {
                twin.settled().await;
            }
        };
        tokio::pin!(proved);
        let mut look = tokio::time::interval(TRIAL_LOOK);
        loop {
            tokio::select! {
                () = &mut proved => break,
                _ = look.tick() => {
                    let mut updater = lock(&self.updater);
                    if updater.is_overdue(self.clock.monotonic_ms()) {
                        tracing::error!(release = updater.booted().image.release, "the release did not prove itself");
                        updater.give_up()?;
                        return Ok(false);
                    }
                }
            }
        }
        self.updater().confirm()?;
        tracing::info!(release = self.updater().booted().image.release, "the release is confirmed");
        self.tell(UpdateEnd::None).await;
        Ok(true)
    }

    async fn follow(&mut self, signed: &[u8]) -> Result<Followed, OtaError> {
        let begun = self.updater().begin(signed);
        let url = match begun {
            Ok(Begun::Running) => return Ok(Followed::Running),
            Ok(Begun::Ready) => return Ok(Followed::Ready),
            Ok(Begun::Download { .. }) => {
                self.updater().downloading().map(|(manifest, _)| manifest.url.clone()).unwrap_or_default()
            }
            Err(OtaError::Flash(error)) => return Err(error.into()),
            Err(error) => return Ok(Followed::Refused(error.to_string())),
        };
        self.tell(UpdateEnd::None).await;
        let mut source = match HttpSource::new(&url, &self.tls) {
            Ok(source) => source,
            Err(error) => return Ok(Followed::Refused(error.to_string())),
        };
        match download(&self.updater, &mut source).await {
            Ok(()) => {
                self.tell(UpdateEnd::None).await;
                Ok(Followed::Ready)
            }
            Err(DownloadError::Updater(OtaError::Flash(error))) => Err(error.into()),
            Err(error) => Ok(Followed::Later(error.to_string())),
        }
    }

    async fn tell(&self, end: UpdateEnd) {
        let firmware = self.updater().state();
        // Nobody is left to hear it when the gateway ends.
        let _ = self.news.send(News::State { firmware, end }).await;
    }

    fn updater(&self) -> MutexGuard<'_, Updater<DiskFlash>> {
        lock(&self.updater)
    }
}

enum Followed {
    Ready,
    Running,
    Refused(String),
    /// It may come some other time.
    Later(String),
}

fn lock(updater: &Mutex<Updater<DiskFlash>>) -> MutexGuard<'_, Updater<DiskFlash>> {
    updater.lock().unwrap_or_else(PoisonError::into_inner)
}
