//! The gateway's wishes and updates: a release over HTTPS from a server that breaks off, one that does not start, one that is too old.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use device_sdk::ota::SignedManifest;
use protocol::{ProtocolVersion, QoS};
use serde_json::{Value, json};

use super::gateway::{Dispatcher, Vehicle, gateway};
use crate::broker_process::{Broker, Lines};
use crate::raw_client::RawClient;
use crate::transport::make_certificate;

const WISHES: &str = "dev/truck-7/state/desired";
const STATE: &str = "dev/truck-7/state/reported";

/// What starts the gateway whenever it is not running, as systemd does; ends with the test.
struct Init {
    child: Arc<Mutex<Option<Child>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Init {
    fn start(config: PathBuf) -> Self {
        let (child, is_over) = (Arc::new(Mutex::new(None::<Child>)), Arc::new(AtomicBool::new(false)));
        let (slot, over) = (child.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                let mut child = slot.lock().expect("nobody panics with it");
                let is_gone =
                    child.as_mut().is_none_or(|child| child.try_wait().expect("its child").is_some());
                if is_gone {
                    let started = Command::new(gateway()).arg(&config).stdin(Stdio::null()).spawn();
                    *child = Some(started.expect("the gateway starts"));
                }
                drop(child);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { child, is_over, thread: Some(thread) }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // It may have ended.
        if let Ok(mut child) = self.child.lock()
            && let Some(child) = &mut *child
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A server with images, over the TLS of somebody else's library.
struct Images {
    child: Child,
    lines: Lines,
    port: String,
    dir: PathBuf,
    key: Ed25519KeyPair,
}

impl Images {
    fn start(dir: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/image_server.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args([dir.to_owned(), dir.join("server.crt"), dir.join("server.key")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let lines = Lines::of(child.stdout.take().expect("it is piped"));
        let port = lines.wait_for("port ").expect("it listens");
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        Self { child, lines, port, dir: dir.to_owned(), key }
    }

    /// The manifest of an image that is served from now on.
    fn release(&self, release: u64, image: &[u8]) -> Value {
        let name = format!("image-{release}");
        std::fs::write(self.dir.join(&name), image).expect("it can be written");
        let manifest = json!({
            "release": release, "name": format!("{release}.0.0"), "model": "gateway-2", "size": image.len(),
            "sha256": hex(digest(&SHA256, image).as_ref()), "url": format!("https://localhost:{}/{name}", self.port),
        });
        let manifest = manifest.to_string();
        let signature = hex(self.key.sign(&SignedManifest::signed_bytes(&manifest)).as_ref());
        json!({ "manifest": manifest, "key": "2026", "signature": signature })
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A program that is the gateway again, of some size.
fn good_image() -> Vec<u8> {
    let mut image = format!("#!/bin/sh\nexec {:?} \"$@\"\n", gateway()).into_bytes();
    image.resize(700_000, b'#');
    image
}

impl Dispatcher {
    fn wish(&mut self, document: &Value) {
        self.0.publish_accepted(WISHES, document.to_string());
    }

    fn state_where(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let state = self.next(STATE);
            if is_it(&state) {
                return state;
            }
        }
    }
}

#[test]
fn releases_come_over_https_and_one_that_does_not_start_goes_back() {
    let broker = Broker::start();
    let vehicle = Vehicle::new();
    let folder = tempfile::tempdir().expect("a temporary directory");
    make_certificate(folder.path());
    let images = Images::start(folder.path());
    let config = folder.path().join("gateway.toml");
    let text = format!(
        "device = \"truck-7\"\ndata_dir = \"data\"\n[broker]\naddress = \"{}\"\n[queue]\ngroup_ms = 0\n[gps]\npath = {:?}\n\
         [update]\nmodel = \"gateway-2\"\nslots = \"firmware\"\nslot_bytes = 1000000000\nca_file = \"server.crt\"\n\
         keys = [{{ name = \"2026\", public_key = \"{}\" }}]\n",
        broker.address(),
        vehicle.gps,
        hex(images.key.public_key().as_ref()),
    );
    std::fs::write(&config, text).expect("it can be written");
    let mut dispatcher = RawClient::connect(broker.address(), "dispatcher", ProtocolVersion::V5);
    for filter in ["dev/truck-7/telemetry/gps", STATE] {
        dispatcher.subscribe(filter, QoS::AtLeastOnce);
    }
    let mut dispatcher = Dispatcher(dispatcher.acknowledging());
    let _init = Init::start(config);
    let installed = dispatcher.state_where(|state| state["firmware"]["release"] == 0);
    assert_eq!((&installed["firmware"]["trial"], &installed["interval_s"]), (&json!(false), &json!(0)));

    // A good one comes although the server breaks off, is tried, and has proved itself by saying so.
    let good = images.release(2, &good_image());
    dispatcher.wish(&json!({ "$version": 1, "update": good }));
    let running = dispatcher.state_where(|state| state["update"] == good);
    let firmware = json!({ "release": 2, "name": "2.0.0", "trial": false, "ready": false });
    assert_eq!((&running["firmware"], &running["refused"]), (&firmware, &Value::Null), "{running}");
    let asked = ["0 262144", "262144 131072", "393216 262144", "655360 44640"];
    for expected in asked {
        assert_eq!(
            images.lines.wait_for("/image-2 ").as_deref(),
            Some(expected),
            "nothing is asked for twice"
        );
    }

    // One that ends at once has its three starts; then the last one is back, and says so.
    let bad = images.release(3, b"#!/bin/sh\nexit 1\n");
    dispatcher.wish(&json!({ "$version": 2, "update": bad }));
    let back =
        dispatcher.state_where(|state| state["firmware"]["failed"] == 3 && !state["refused"].is_null());
    assert_eq!((&back["firmware"]["release"], &back["update"]), (&json!(2), &good), "{back}");
    let why = "release 3 was tried and did not prove itself; publish a higher one";
    assert_eq!(back["refused"], json!({ "update": why }));

    // An older one is none, whoever signed it.
    dispatcher.wish(&json!({ "$version": 3, "update": images.release(1, b"#!/bin/sh\n") }));
    let refused = dispatcher.state_where(|state| state["$desired"] == 3 && state["refused"]["update"] != why);
    let why = refused["refused"]["update"].as_str().expect("a reason");
    assert!(why.contains("release 1 is older than 2"), "{refused}");

    // What else is wanted is done beside, and the rest said.
    dispatcher.wish(&json!({ "$version": 4, "update": good, "interval_s": 2, "lock": "UNLOCKED" }));
    let state = dispatcher.state_where(|state| state["interval_s"] == 2);
    assert_eq!(state["refused"], json!({ "lock": "it cannot be wished" }));
    let mut last = 0;
    let mut apart = 0;
    while apart < 3 {
        let ts = dispatcher.next("dev/truck-7/telemetry/gps")["ts"].as_u64().expect("a time");
        // Before the wish there were five a second.
        apart = if ts / 2_000 > last / 2_000 && ts >= last + 1_000 { apart + 1 } else { 0 };
        last = ts;
    }
}
