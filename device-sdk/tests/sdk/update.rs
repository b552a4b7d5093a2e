//! An update over TCP on files: ranges, a server that breaks off, one that knows no ranges.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use device_sdk::TlsOptions;
use device_sdk::ota::{
    Boot, DiskFlash, HttpSource, ReleaseKeys, SignedManifest, Source, Updater, UpdaterOptions, download,
};
use serde_json::json;

const SLOT_BYTES: u64 = 1024 * 1024;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn image() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(5);
    (0..600_000).map(|_| rng.u8(..)).collect()
}

/// Answers ranges, every second one only in its first half; tells what it was asked for.
fn breaking_server(image: Vec<u8>) -> (SocketAddr, Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, heard) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let range = text.lines().find_map(|line| line.strip_prefix("Range: bytes=")).unwrap();
            let (from, to) = range.trim().split_once('-').unwrap();
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            if asked.send(from).is_err() {
                return;
            }
            let part = &image[from..=to];
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}\r\nContent-Length: {}\r\n\r\n",
                image.len(),
                part.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            let sent = if number % 2 == 1 { part.len() / 2 } else { part.len() };
            stream.write_all(&part[..sent]).unwrap();
        }
    });
    (address, heard)
}

fn updater(dir: &std::path::Path, key: &Ed25519KeyPair) -> Updater<DiskFlash> {
    let mut flash = DiskFlash::open(dir, SLOT_BYTES).unwrap();
    let booted = Boot::choose(&mut flash).unwrap();
    let mut keys = ReleaseKeys::default();
    keys.add("k", key.public_key().as_ref()).unwrap();
    Updater::open(flash, UpdaterOptions::new("m", keys), booted, 0).unwrap()
}

#[tokio::test]
async fn an_image_comes_in_ranges_over_a_server_that_breaks_off() {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let (server, heard) = breaking_server(image());
    let dir = tempfile::tempdir().unwrap();
    Boot::provision(&mut DiskFlash::open(dir.path(), SLOT_BYTES).unwrap(), 1, "one", b"first").unwrap();
    let manifest = json!({ "release": 2, "name": "two", "model": "m", "size": 600_000,
        "sha256": hex(digest(&SHA256, &image()).as_ref()), "url": format!("http://{server}/image") });
    let manifest = manifest.to_string();
    let signature = hex(key.sign(&SignedManifest::signed_bytes(&manifest)).as_ref());
    let signed = SignedManifest { manifest, key: "k".to_owned(), signature };

    let mut first = updater(dir.path(), &key);
    first.begin(&serde_json::to_vec(&signed).unwrap()).unwrap();
    let url = first.downloading().unwrap().0.url.clone();
    let first = Arc::new(Mutex::new(first));
    let mut source = HttpSource::new(&url, &TlsOptions::default()).unwrap();
    download(&first, &mut source).await.unwrap();
    drop(first);

    // 256 KiB whole, then a half, and on from there: nothing is asked for twice.
    let asked: Vec<usize> = heard.try_iter().collect();
    assert_eq!(asked, [0, 262_144, 393_216]);
    let second = updater(dir.path(), &key);
    assert!(second.booted().is_trial && second.booted().image.name == "two");
    let path = second.into_flash().path(device_sdk::ota::Slot::B);
    assert_eq!(std::fs::read(path).unwrap()[..600_000], image());
}

#[tokio::test]
async fn a_server_without_ranges_gives_the_beginning_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(length > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").unwrap();
        }
    });
    let mut source = HttpSource::new(&url, &TlsOptions::default()).unwrap();
    assert_eq!(source.read(0, 4).await.unwrap(), "0123");
    let error = source.read(4, 4).await.unwrap_err().to_string();
    assert!(error.contains("it sends no ranges"), "{error}");
}
