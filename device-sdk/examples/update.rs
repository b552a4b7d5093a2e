//! An update from its signature to its confirmation on a directory of files, with a server, a download cut off, and a bad release.
//!
//! `cargo run -p postrider-device-sdk --example update`

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use device_sdk::TlsOptions;
use device_sdk::ota::{
    Boot, DiskFlash, HttpSource, ReleaseKeys, SignedManifest, Updater, UpdaterOptions, download,
};
use serde_json::json;

const MODEL: &str = "gateway-2";
const SLOT_BYTES: u64 = 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // The maker's side: a key, an image, a server.
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32])?;
    let image: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let server = serve(image.clone())?;
    let good = sign(&key, 2, &image, server)?;
    let bad = sign(&key, 3, b"never confirmed", server)?;

    // The factory's.
    Boot::provision(&mut DiskFlash::open(dir.path(), SLOT_BYTES)?, 1, "1.0.0", b"the first image")?;

    let mut updater = start(dir.path(), &key)?;
    updater.begin(&good)?;
    updater.write(&image[..300_000])?;
    println!("300000 bytes are written, and the power ends");
    drop(updater);

    let updater = Arc::new(Mutex::new(start(dir.path(), &key)?));
    println!("it goes on: {}", lock(&updater).state());
    download(&updater, &mut HttpSource::new(&format!("http://{server}/image"), &TlsOptions::default())?)
        .await?;
    drop(updater);

    let mut updater = start(dir.path(), &key)?;
    updater.confirm()?;
    println!("it proves itself: {}", updater.state());
    updater.begin(&bad)?;
    updater.write(b"never confirmed")?;
    updater.finish()?;
    drop(updater);

    for _ in 0..4 {
        println!("started: {}", start(dir.path(), &key)?.state());
    }
    let error = start(dir.path(), &key)?.begin(&bad).expect_err("it was given up");
    println!("{error}");
    Ok(())
}

/// What a supervisor and the program it starts do.
fn start(dir: &Path, key: &Ed25519KeyPair) -> Result<Updater<DiskFlash>, Box<dyn Error>> {
    let mut flash = DiskFlash::open(dir, SLOT_BYTES)?;
    let booted = Boot::choose(&mut flash)?;
    let mut keys = ReleaseKeys::default();
    keys.add("2026", key.public_key().as_ref())?;
    Ok(Updater::open(flash, UpdaterOptions::new(MODEL, keys), booted, 0)?)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics here")
}

fn sign(
    key: &Ed25519KeyPair,
    release: u64,
    image: &[u8],
    server: SocketAddr,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let manifest = json!({ "release": release, "name": format!("{release}.0.0"), "model": MODEL,
        "size": image.len(), "sha256": hex(digest(&SHA256, image).as_ref()), "url": format!("http://{server}/image") });
    let manifest = manifest.to_string();
    let signature = hex(key.sign(&SignedManifest::signed_bytes(&manifest)).as_ref());
    Ok(serde_json::to_vec(&SignedManifest { manifest, key: "2026".to_owned(), signature })?)
}

/// A server that knows ranges, and nothing else.
fn serve(image: Vec<u8>) -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answered = stream.and_then(|mut stream| {
                let mut request = [0; 4096];
                let length = stream.read(&mut request)?;
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let range = text.lines().find_map(|line| line.strip_prefix("Range: bytes=")?.split_once('-'));
                let (from, to): (usize, usize) = range
                    .and_then(|(from, to)| Some((from.parse().ok()?, to.trim().parse().ok()?)))
                    .unwrap_or((0, image.len() - 1));
                println!("  asked for bytes {from} to {to}");
                let (size, part) = (image.len(), &image[from..=to.min(image.len() - 1)]);
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{size}\r\nContent-Length: {}\r\n\r\n",
                    from + part.len() - 1,
                    part.len()
                );
                stream.write_all(head.as_bytes())?;
                stream.write_all(part)
            });
            if let Err(error) = answered {
                println!("  the server: {error}");
            }
        }
    });
    Ok(address)
}
