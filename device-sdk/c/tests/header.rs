//! The header that programs compile with is what the code says.

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config =
        cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("cbindgen.toml is in order");
    let mut made = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_crate(folder)
        .generate()
        .expect("cbindgen reads the code")
        .write(&mut made);
    let path = folder.join("include/postrider_device.h");
    if std::env::var_os("WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("the header can be written");
    }
    let there = std::fs::read(&path).unwrap_or_default();
    let is_same = there == made;
    assert!(is_same, "write it again: WRITE_HEADER=1 cargo test -p postrider-device-sdk-c --test header");
}
