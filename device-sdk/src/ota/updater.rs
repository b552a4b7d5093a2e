//! The running program's part: taking a release, trying it, confirming it or going back.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::boot::{BootRecord, Booted, Image, TRIAL_STARTS, is_whole};
use super::flash::{Flash, Slot};
use super::manifest::{Manifest, ManifestError, ReleaseKeys};
use super::record::{BOOT, DOWNLOAD};

/// What an updater is given.
#[derive(Clone, Debug)]
pub struct UpdaterOptions {
    /// Who may sign releases.
    pub keys: ReleaseKeys,
    /// What this device is: a manifest for another model is refused.
    pub model: String,
    /// Bytes after which the flash is synced and the offset noted: what a power cut costs. By default 256 KiB.
    pub sync_bytes: u64,
    /// How long a trial may take to be confirmed, milliseconds; by default 10 minutes.
    pub confirm_within_ms: u64,
}

impl UpdaterOptions {
    /// Makes the default options of a model.
    pub fn new(model: impl Into<String>, keys: ReleaseKeys) -> Self {
        Self { keys, model: model.into(), sync_bytes: 256 * 1024, confirm_within_ms: 600_000 }
    }
}

/// How far a download is, on flash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Download {
    /// The signed manifest, checked again when it is taken up.
    signed: String,
    /// Up to here it is durable.
    offset: u64,
}

/// What became of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Download the image from this offset on.
    Download {
        /// Bytes that are there already.
        offset: u64,
    },
    /// It is what is running.
    Running,
    /// It is downloaded and starts with the next restart.
    Ready,
}

/// Why an update does not go on.
#[derive(Debug, thiserror::Error)]
pub enum OtaError {
    /// The flash failed.
    #[error("the flash cannot be used: {0}")]
    Flash(#[from] io::Error),
    /// The boot loader's record is missing.
    #[error("the flash has no boot record")]
    NotProvisioned,
    /// The manifest is not signed as it must be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is for other devices.
    #[error("release {release} is for model {model:?}, this is {own:?}")]
    Model {
        /// The release.
        release: u64,
        /// Its model.
        model: String,
        /// This device's.
        own: String,
    },
    /// It is older than what the device has had.
    #[error("release {release} is older than {highest}, which this device has run: downgrades are refused")]
    Downgrade {
        /// The release.
        release: u64,
        /// The highest that was confirmed.
        highest: u64,
    },
    /// It was tried and given up.
    #[error("release {release} was tried and did not prove itself; publish a higher one")]
    Failed {
        /// The release.
        release: u64,
    },
    /// It does not fit.
    #[error("the image has {size} bytes, a slot {slot_bytes}")]
    Size {
        /// The image's.
        size: u64,
        /// The slot's.
        slot_bytes: u64,
    },
    /// What runs is itself on trial: the other slot is the way back.
    #[error("release {release} is on trial, confirm it before the next one is taken")]
    OnTrial {
        /// What runs.
        release: u64,
    },
    /// Nothing is being downloaded.
    #[error("no release is being downloaded")]
    NotBegun,
    /// There are more bytes than the manifest says, or fewer.
    #[error("the image has {size} bytes, {bytes} came")]
    Length {
        /// As the manifest says.
        size: u64,
        /// What came.
        bytes: u64,
    },
    /// What came is not what was signed.
    #[error("what was downloaded is not release {release}: its SHA-256 is another; it begins anew")]
    Digest {
        /// The release.
        release: u64,
    },
}

/// Takes updates while the program runs.
///
/// ```
/// use aws_lc_rs::digest::{SHA256, digest};
/// use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
/// use device_sdk::ota::{Begun, Boot, DiskFlash, ReleaseKeys, SignedManifest, Updater, UpdaterOptions};
/// use serde_json::json;
///
/// # let dir = tempfile::tempdir()?;
/// # let directory = dir.path();
/// let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
/// // The maker signs release 2.
/// let (key, image) = (Ed25519KeyPair::from_seed_unchecked(&[7; 32])?, b"the second image");
/// let manifest = json!({ "release": 2, "name": "2.0.0", "model": "gateway-2", "size": image.len(),
///     "sha256": hex(digest(&SHA256, image).as_ref()), "url": "https://images.example/2" }).to_string();
/// let signature = hex(key.sign(&SignedManifest::signed_bytes(&manifest)).as_ref());
/// let signed = serde_json::to_vec(&SignedManifest { manifest, key: "2026".to_owned(), signature })?;
///
/// // The device runs release 1 and takes it.
/// let mut flash = DiskFlash::open(directory, 1024 * 1024)?;
/// Boot::provision(&mut flash, 1, "1.0.0", b"the first image")?;
/// let booted = Boot::choose(&mut flash)?;
/// let mut keys = ReleaseKeys::default();
/// keys.add("2026", key.public_key().as_ref())?;
/// let options = UpdaterOptions::new("gateway-2", keys);
/// let mut updater = Updater::open(flash, options.clone(), booted, 0)?;
/// assert_eq!(updater.begin(&signed)?, Begun::Download { offset: 0 });
/// updater.write(image)?; // as it comes: `download` does this
/// updater.finish()?;
///
/// // The next start is a trial, until the new program says that it is well.
/// let mut flash = updater.into_flash();
/// let booted = Boot::choose(&mut flash)?;
/// assert!(booted.is_trial && booted.image.release == 2);
/// let mut updater = Updater::open(flash, options, booted, 0)?;
/// updater.confirm()?;
/// assert!(!Boot::choose(&mut updater.into_flash())?.is_trial);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Updater<F> {
    flash: F,
    options: UpdaterOptions,
    booted: Booted,
    record: BootRecord,
    download: Option<(Download, Manifest)>,
    /// Written and not synced yet, from the download's offset on.
    unsynced: u64,
    started_ms: u64,
}

impl<F: Flash> Updater<F> {
    /// Makes the updater of what [`Boot::choose`](super::Boot::choose) has started, at this moment of the monotonic clock. A download that was under way
    /// goes on where it was.
    ///
    /// # Errors
    /// The flash failed, or has no boot record.
    pub fn open(
        flash: F,
        options: UpdaterOptions,
        booted: Booted,
        monotonic_ms: u64,
    ) -> Result<Self, OtaError> {
        let record: BootRecord = BOOT.load(&flash)?.ok_or(OtaError::NotProvisioned)?;
        let kept: Option<Option<Download>> = DOWNLOAD.load(&flash)?;
        // Checked again: the list of keys may have changed with the release.
        let download = kept.flatten().and_then(|download| {
            let manifest = options.keys.verify(download.signed.as_bytes()).ok()?;
            let is_wanted = manifest.release > record.highest
                && record.failed != Some(manifest.release)
                && record.trial_starts.is_none();
            is_wanted.then_some((download, manifest))
        });
        Ok(Self { flash, options, booted, record, download, unsynced: 0, started_ms: monotonic_ms })
    }

    /// Returns what runs.
    pub fn booted(&self) -> &Booted {
        &self.booted
    }

    /// Returns the manifest of the download that is under way, and how many bytes are written.
    pub fn downloading(&self) -> Option<(&Manifest, u64)> {
        let (download, manifest) = self.download.as_ref()?;
        Some((manifest, download.offset + self.unsynced))
    }

    /// Returns the state for the device twin: what runs, what comes, what failed.
    pub fn state(&self) -> Value {
        let downloading = self.downloading().map(|(manifest, offset)| {
            json!({ "release": manifest.release, "name": manifest.name, "offset": offset, "size": manifest.size })
        });
        json!({
            "release": self.booted.image.release,
            "name": self.booted.image.name,
            "trial": self.booted.is_trial,
            "ready": self.record.trial_starts.is_some() && !self.booted.is_trial,
            "downloading": downloading,
            "failed": self.record.failed,
        })
    }

    /// Takes the JSON of a signed manifest. The slot that is not running is given up for it.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed then, unless the flash failed.
    pub fn begin(&mut self, signed: &[u8]) -> Result<Begun, OtaError> {
        let manifest = self.options.keys.verify(signed)?;
        let release = manifest.release;
        if manifest.model != self.options.model {
            let own = self.options.model.clone();
            return Err(OtaError::Model { release, model: manifest.model, own });
        }
        if release == self.booted.image.release {
            return Ok(Begun::Running);
        }
        if release <= self.record.highest {
            return Err(OtaError::Downgrade { release, highest: self.record.highest });
        }
        if self.record.failed == Some(release) {
            return Err(OtaError::Failed { release });
        }
        if manifest.size > self.flash.slot_bytes() || manifest.size == 0 {
            return Err(OtaError::Size { size: manifest.size, slot_bytes: self.flash.slot_bytes() });
        }
        if self.booted.is_trial {
            return Err(OtaError::OnTrial { release: self.booted.image.release });
        }
        let slot = self.target();
        let staged = self.record.image(slot).filter(|_| self.record.trial_starts.is_some());
        if staged.is_some_and(|image| image.release == release && image.sha256 == manifest.sha256) {
            return Ok(Begun::Ready);
        }
        let text = String::from_utf8_lossy(signed).into_owned();
        if let Some((download, _)) = self.download.as_ref().filter(|(download, _)| download.signed == text) {
            return Ok(Begun::Download { offset: download.offset + self.unsynced });
        }
        // First nobody may start it any more, then it is overwritten.
        let mut record = self.record.clone();
        (record.images[slot.index()], record.trial_starts) = (None, None);
        // Else, if the active image was damaged and this one started instead, the new one would not be the one on trial.
        record.active = self.booted.slot;
        BOOT.store(&mut self.flash, &record)?;
        self.record = record;
        self.note_download(Download { signed: text, offset: 0 }, manifest)?;
        Ok(Begun::Download { offset: 0 })
    }

    /// Writes the next bytes of the image. What is durable of it is noted every `sync_bytes`.
    ///
    /// # Errors
    /// Nothing is being downloaded, there are too many bytes, or the flash failed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OtaError> {
        let slot = self.target();
        let (download, manifest) = self.download.as_ref().ok_or(OtaError::NotBegun)?;
        let at = download.offset + self.unsynced;
        let end = at.saturating_add(bytes.len() as u64);
        if end > manifest.size {
            return Err(OtaError::Length { size: manifest.size, bytes: end });
        }
        self.flash.write(slot, at, bytes)?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= self.options.sync_bytes || end == manifest.size {
            let (download, manifest) = (Download { offset: end, ..download.clone() }, manifest.clone());
            self.flash.sync(slot)?;
            self.note_download(download, manifest)?;
        }
        Ok(())
    }

    /// Checks the whole image on flash against the manifest and puts it on trial: it starts with the next restart.
    ///
    /// # Errors
    /// It is not whole; if it is another than was signed, the download begins anew.
    pub fn finish(&mut self) -> Result<(), OtaError> {
        let slot = self.target();
        let (download, manifest) = self.download.clone().ok_or(OtaError::NotBegun)?;
        if download.offset != manifest.size {
            return Err(OtaError::Length { size: manifest.size, bytes: download.offset + self.unsynced });
        }
        let Manifest { release, name, size, sha256, .. } = manifest.clone();
        let image = Image { release, name, size, sha256 };
        if !is_whole(&self.flash, slot, &image)? {
            self.note_download(Download { offset: 0, ..download }, manifest)?;
            return Err(OtaError::Digest { release });
        }
        let mut record = self.record.clone();
        record.images[slot.index()] = Some(image);
        record.trial_starts = Some(TRIAL_STARTS);
        BOOT.store(&mut self.flash, &record)?;
        self.record = record;
        self.end_download()
    }

    /// Says whether a trial must be given up now: it was not confirmed in time. Then call [`Self::give_up`] and restart.
    pub fn is_overdue(&self, monotonic_ms: u64) -> bool {
        let running_ms = monotonic_ms.saturating_sub(self.started_ms);
        self.booted.is_trial && running_ms >= self.options.confirm_within_ms
    }

    /// Confirms what runs: it does what it should. Without a trial this does nothing.
    ///
    /// # Errors
    /// The flash failed; it is not confirmed then.
    pub fn confirm(&mut self) -> Result<(), OtaError> {
        if !self.booted.is_trial {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.active = self.booted.slot;
        record.trial_starts = None;
        record.highest = record.highest.max(self.booted.image.release);
        BOOT.store(&mut self.flash, &record)?;
        self.record = record;
        self.booted.is_trial = false;
        Ok(())
    }

    /// Ends the trial without success: the next start is the old image's, and this release is not taken again. Without a trial this
    /// does nothing.
    ///
    /// # Errors
    /// The flash failed; the boot loader gives it up after [`TRIAL_STARTS`] starts anyway.
    pub fn give_up(&mut self) -> Result<(), OtaError> {
        if !self.booted.is_trial {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.give_up();
        BOOT.store(&mut self.flash, &record)?;
        self.record = record;
        Ok(())
    }

    /// Gives the flash back, to restart.
    pub fn into_flash(self) -> F {
        self.flash
    }

    /// The slot that does not run.
    fn target(&self) -> Slot {
        self.booted.slot.other()
    }

    fn note_download(&mut self, download: Download, manifest: Manifest) -> Result<(), OtaError> {
        DOWNLOAD.store(&mut self.flash, &Some(&download))?;
        self.unsynced = 0;
        self.download = Some((download, manifest));
        Ok(())
    }

    fn end_download(&mut self) -> Result<(), OtaError> {
        DOWNLOAD.store(&mut self.flash, &None::<Download>)?;
        self.download = None;
        Ok(())
    }
}
