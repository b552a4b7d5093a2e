//! Signatures, downgrades, trials; and the power that ends at every step.

use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use serde_json::json;
use storage::sim::SimDisk;

use super::*;
use crate::hex;

const SLOT_BYTES: u64 = 64 * 1024;

struct Maker {
    key: Ed25519KeyPair,
}

impl Maker {
    fn new(seed: u8) -> Self {
        Self { key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }

    fn sign(&self, manifest: &serde_json::Value) -> Vec<u8> {
        let text = manifest.to_string();
        let signature = hex::encode(self.key.sign(&SignedManifest::signed_bytes(&text)).as_ref());
        serde_json::to_vec(&SignedManifest { manifest: text, key: "2026".to_owned(), signature }).unwrap()
    }

    fn release(&self, release: u64, image: &[u8]) -> Vec<u8> {
        self.sign(&manifest(release, image))
    }

    fn options(&self) -> UpdaterOptions {
        let mut keys = ReleaseKeys::default();
        keys.add("2026", self.key.public_key().as_ref()).unwrap();
        UpdaterOptions { sync_bytes: 1_500, ..UpdaterOptions::new("gateway-2", keys) }
    }
}

fn manifest(release: u64, image: &[u8]) -> serde_json::Value {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, image);
    json!({ "release": release, "name": format!("1.{release}.0"), "model": "gateway-2", "size": image.len(),
        "sha256": hex::encode(digest.as_ref()), "url": "http://127.0.0.1/image" })
}

/// An image in which every byte depends on the release: a mix would be seen.
fn image(release: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(release);
    (0..40_000 + release * 100).map(|_| rng.u8(..)).collect()
}

type SimFlash = DiskFlash<SimDisk>;

fn flash_on(disk: &SimDisk) -> SimFlash {
    DiskFlash::open_on(disk.clone(), SLOT_BYTES).unwrap()
}

fn provisioned() -> SimDisk {
    let disk = SimDisk::new(1);
    Boot::provision(&mut flash_on(&disk), 1, "1.1.0", &image(1)).unwrap();
    disk
}

fn booted(disk: &SimDisk, maker: &Maker) -> Updater<SimFlash> {
    let mut flash = flash_on(disk);
    let booted = Boot::choose(&mut flash).unwrap();
    assert_eq!(content(&flash, &booted), image(booted.image.release), "what starts is one whole image");
    Updater::open(flash, maker.options(), booted, 0).unwrap()
}

fn content(flash: &SimFlash, booted: &Booted) -> Vec<u8> {
    let mut bytes = vec![0; booted.image.size as usize];
    flash.read(booted.slot, 0, &mut bytes).unwrap();
    bytes
}

/// Downloads from where it is, and puts it on trial.
fn install(updater: &mut Updater<SimFlash>, signed: &[u8], image: &[u8]) -> Result<(), OtaError> {
    if let Begun::Download { offset } = updater.begin(signed)? {
        for part in image[offset as usize..].chunks(1_000) {
            updater.write(part)?;
        }
        updater.finish()?;
    }
    Ok(())
}

fn release_of(updater: &Updater<SimFlash>) -> u64 {
    updater.booted().image.release
}

#[test]
fn a_release_is_downloaded_tried_and_confirmed() {
    let (disk, maker) = (provisioned(), Maker::new(3));
    let mut updater = booted(&disk, &maker);
    let signed = maker.release(2, &image(2));
    install(&mut updater, &signed, &image(2)).unwrap();
    assert_eq!(updater.begin(&signed).unwrap(), Begun::Ready);
    assert_eq!((release_of(&updater), updater.state()["ready"].clone()), (1, json!(true)));
    drop(updater);
    let mut updater = booted(&disk, &maker);
    assert!(updater.booted().is_trial && release_of(&updater) == 2);
    let error = updater.begin(&maker.release(3, &image(3))).unwrap_err();
    assert!(matches!(error, OtaError::OnTrial { release: 2 }), "{error}");
    updater.confirm().unwrap();
    assert!(!updater.is_overdue(u64::MAX));
    assert_eq!(updater.begin(&signed).unwrap(), Begun::Running);
    drop(updater);
    for _ in 0..5 {
        let updater = booted(&disk, &maker);
        assert!(!updater.booted().is_trial && release_of(&updater) == 2);
    }
    // And the next one goes into the first slot.
    let mut updater = booted(&disk, &maker);
    install(&mut updater, &maker.release(3, &image(3)), &image(3)).unwrap();
    drop(updater);
    let updater = booted(&disk, &maker);
    assert_eq!((updater.booted().slot, release_of(&updater)), (Slot::A, 3));
}

#[test]
fn what_is_not_signed_for_this_device_is_refused() {
    let (disk, maker, stranger) = (provisioned(), Maker::new(3), Maker::new(4));
    let mut updater = booted(&disk, &maker);
    let good = maker.release(2, &image(2));
    let with = |field: &str, value: serde_json::Value| {
        let mut changed = manifest(2, &image(2));
        changed[field] = value;
        maker.sign(&changed)
    };
    let mut altered: SignedManifest = serde_json::from_slice(&good).unwrap();
    altered.manifest = altered.manifest.replace("1.2.0", "9.9.9");
    let mut renamed = altered.clone();
    renamed.key = "2019".to_owned();
    let cases = [
        (stranger.release(2, &image(2)), "the signature by key \"2026\" is wrong"),
        (serde_json::to_vec(&altered).unwrap(), "is wrong"),
        (serde_json::to_vec(&renamed).unwrap(), "does not know"),
        (b"{".to_vec(), "cannot be read"),
        (vec![b' '; MANIFEST_BYTES_MAX + 1], "at most 4096 are taken"),
        (with("model", json!("gateway-1")), "for model \"gateway-1\", this is \"gateway-2\""),
        (with("sha256", json!("00")), "64 hexadecimal digits"),
        (with("size", json!(SLOT_BYTES + 1)), "a slot 65536"),
        (with("size", json!(0)), "0 bytes"),
        (with("release", json!(0)), "downgrades are refused"),
    ];
    for (signed, expected) in cases {
        let error = updater.begin(&signed).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(matches!(updater.write(b"x"), Err(OtaError::NotBegun)));
    assert!(matches!(updater.finish(), Err(OtaError::NotBegun)));
}

#[test]
fn an_image_that_is_not_the_signed_one_never_starts() {
    let (disk, maker) = (provisioned(), Maker::new(3));
    let mut updater = booted(&disk, &maker);
    let signed = maker.release(2, &image(2));
    let mut wrong = image(2);
    wrong[30_000] ^= 1;
    let error = install(&mut updater, &signed, &wrong).unwrap_err();
    assert!(matches!(error, OtaError::Digest { release: 2 }), "{error}");
    // It begins anew.
    assert_eq!(updater.begin(&signed).unwrap(), Begun::Download { offset: 0 });
    assert!(matches!(updater.finish(), Err(OtaError::Length { bytes: 0, .. })));
    assert!(matches!(updater.write(&vec![0; 60_000]), Err(OtaError::Length { .. })));
    drop(updater);
    assert_eq!(release_of(&booted(&disk, &maker)), 1);
}

#[test]
fn a_downgrade_is_refused_although_it_is_signed() {
    let (disk, maker) = (provisioned(), Maker::new(3));
    for release in [5, 9] {
        let mut updater = booted(&disk, &maker);
        install(&mut updater, &maker.release(release, &image(release)), &image(release)).unwrap();
        drop(updater);
        booted(&disk, &maker).confirm().unwrap();
    }
    let mut updater = booted(&disk, &maker);
    for release in [1, 5, 8] {
        let error = updater.begin(&maker.release(release, &image(release))).unwrap_err();
        assert!(matches!(error, OtaError::Downgrade { highest: 9, .. }), "{error}");
    }
}

#[test]
fn a_release_that_does_not_prove_itself_is_given_up_and_not_taken_again() {
    let maker = Maker::new(3);
    let signed = maker.release(2, &image(2));
    // It starts and is not confirmed in time.
    let disk = provisioned();
    install(&mut booted(&disk, &maker), &signed, &image(2)).unwrap();
    let mut updater = booted(&disk, &maker);
    assert!(!updater.is_overdue(599_999) && updater.is_overdue(600_000));
    updater.give_up().unwrap();
    drop(updater);
    let mut updater = booted(&disk, &maker);
    assert_eq!((release_of(&updater), updater.state()["failed"].clone()), (1, json!(2)));
    assert!(matches!(updater.begin(&signed), Err(OtaError::Failed { release: 2 })));
    assert!(matches!(updater.begin(&maker.release(3, &image(3))), Ok(Begun::Download { .. })));
    drop(updater);

    // It does not even come so far: each start ends before anything is said.
    let disk = provisioned();
    install(&mut booted(&disk, &maker), &signed, &image(2)).unwrap();
    for _ in 0..TRIAL_STARTS {
        assert_eq!(release_of(&booted(&disk, &maker)), 2);
    }
    let mut updater = booted(&disk, &maker);
    assert_eq!(release_of(&updater), 1);
    assert!(matches!(updater.begin(&signed), Err(OtaError::Failed { release: 2 })));
}

#[test]
fn a_slot_that_rots_is_not_started() {
    let (disk, maker) = (provisioned(), Maker::new(3));
    install(&mut booted(&disk, &maker), &maker.release(2, &image(2)), &image(2)).unwrap();
    booted(&disk, &maker).confirm().unwrap();
    let mut rotten = disk.read("slot-b.img").unwrap();
    rotten[100] ^= 1;
    disk.overwrite("slot-b.img", rotten);
    let mut updater = booted(&disk, &maker);
    assert_eq!((release_of(&updater), updater.booted().slot), (1, Slot::A), "the old one is still there");
    // The next release mends it.
    install(&mut updater, &maker.release(3, &image(3)), &image(3)).unwrap();
    drop(updater);
    let mut updater = booted(&disk, &maker);
    assert_eq!((release_of(&updater), updater.booted().is_trial), (3, true));
    updater.confirm().unwrap();
    drop(updater);
    assert_eq!(release_of(&booted(&disk, &maker)), 3);
    let bare = SimDisk::new(9);
    assert!(matches!(Boot::choose(&mut flash_on(&bare)), Err(BootError::NotProvisioned)));
}

/// One step of a device's life; says whether the new release is confirmed. On an error the power has ended.
fn live(disk: &SimDisk, maker: &Maker, starts: &mut [u64; 3]) -> Result<bool, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut flash = DiskFlash::open_on(disk.clone(), SLOT_BYTES).map_err(|error| text(&error))?;
    let booted = Boot::choose(&mut flash).map_err(|error| text(&error))?;
    let release = booted.image.release;
    starts[release as usize] += 1;
    let mut bytes = vec![0; booted.image.size as usize];
    flash.read(booted.slot, 0, &mut bytes).map_err(|error| text(&error))?;
    assert_eq!(bytes, image(release), "what starts is one whole image");
    let mut updater = Updater::open(flash, maker.options(), booted, 0).map_err(|error| text(&error))?;
    if updater.booted().is_trial {
        updater.confirm().map_err(|error| text(&error))?;
    }
    if release == 2 {
        return Ok(true);
    }
    match install(&mut updater, &maker.release(2, &image(2)), &image(2)) {
        // Too many starts without a word: this release is not tried again, and the old one is what is left.
        Err(OtaError::Failed { .. }) => Ok(true),
        Err(error) => Err(text(&error)),
        Ok(()) => Ok(false),
    }
}

#[test]
fn wherever_the_power_ends_one_whole_image_starts_and_the_update_goes_on() {
    let maker = Maker::new(3);
    // How many changing operations an update takes when nothing happens.
    let steps = {
        let disk = provisioned();
        (1..).find(|cut| {
            let disk = disk.crash(&mut fastrand::Rng::with_seed(0));
            disk.cut_power(*cut);
            let mut starts = [0; 3];
            while live(&disk, &maker, &mut starts) == Ok(false) {}
            disk.has_power()
        })
    };
    let steps = steps.expect("some number of operations is enough") - 1;
    let (mut cuts, mut old, mut new, mut given_up) = (0, 0, 0, 0);
    for step in 1..=steps {
        for seed in 0..6 {
            let mut rng = fastrand::Rng::with_seed(step * 100 + seed);
            let mut disk = provisioned().crash(&mut rng);
            disk.cut_power(step);
            let mut starts = [0; 3];
            loop {
                match live(&disk, &maker, &mut starts) {
                    Ok(true) => break,
                    Ok(false) => continue,
                    Err(what) => assert!(!disk.has_power(), "step {step}, seed {seed}: {what}"),
                }
                cuts += 1;
                disk = disk.crash(&mut rng);
                // On a copy, since a look at a trial is one of its starts.
                let mut flash = flash_on(&disk.crash(&mut rng));
                match Boot::choose(&mut flash).expect("something always starts").image.release {
                    1 => old += 1,
                    _ => new += 1,
                }
                // Half of the devices lose their power once more.
                if rng.bool() {
                    disk.cut_power(rng.u64(1..=steps));
                }
            }
            // Whose trial lost its power three times has given up, as it should.
            let updater = booted(&disk, &maker);
            let has_given_up = updater.state()["failed"] == json!(2);
            assert_eq!(release_of(&updater), if has_given_up { 1 } else { 2 }, "step {step}, seed {seed}");
            given_up += u64::from(has_given_up);
        }
    }
    println!(
        "{steps} steps an update, {cuts} power cuts: {old} times the old image started, {new} times the new one, never a mix; {given_up} gave the new one up"
    );
    assert!(cuts > 600 && old > 100 && new > 40 && steps >= 100, "{steps} {cuts} {old} {new}");
    assert!(given_up < 20, "{given_up}");
}

/// Gives small parts, and fails now and then.
struct Flaky {
    image: Bytes,
    asked: Vec<u64>,
    failures: u32,
}

impl Source for Flaky {
    async fn read(&mut self, offset: u64, bytes_max: usize) -> std::io::Result<Bytes> {
        self.asked.push(offset);
        if self.failures > 0 && self.asked.len().is_multiple_of(3) {
            self.failures -= 1;
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let from = offset as usize;
        Ok(self.image.slice(from..(from + bytes_max.min(2_000)).min(self.image.len())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_download_goes_on_at_its_offset_after_failures_and_restarts() {
    let (disk, maker) = (provisioned(), Maker::new(3));
    let mut source = Flaky { image: image(2).into(), asked: Vec::new(), failures: 3 };
    let mut updater = booted(&disk, &maker);
    updater.begin(&maker.release(2, &image(2))).unwrap();
    updater.write(&image(2)[..20_000]).unwrap();
    drop(updater);
    // What was written at once was synced at once.
    let updater = booted(&disk, &maker);
    assert_eq!(updater.downloading().unwrap().1, 20_000);
    let updater = Arc::new(Mutex::new(updater));
    download(&updater, &mut source).await.unwrap();
    assert_eq!((source.asked[0], source.failures), (20_000, 0));
    drop(updater);
    assert_eq!(release_of(&booted(&disk, &maker)), 2);

    // A source that never comes ends it, and it can be begun again.
    let updater = Arc::new(Mutex::new({
        let mut updater = booted(&disk, &maker);
        updater.confirm().unwrap();
        updater.begin(&maker.release(3, &image(3))).unwrap();
        updater
    }));
    let error = download(&updater, &mut Empty).await.unwrap_err();
    assert!(matches!(error, DownloadError::Source(_)), "{error}");
    assert_eq!(updater.lock().unwrap().downloading().unwrap().1, 0);
}

/// Has nothing.
struct Empty;

impl Source for Empty {
    async fn read(&mut self, _: u64, _: usize) -> std::io::Result<Bytes> {
        Ok(Bytes::new())
    }
}
