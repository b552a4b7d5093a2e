//! `postrider certs`: an authority, a server's certificate and devices' certificates, for a trial of TLS.
//!
//! What it makes is good enough to try everything with, and nothing that a product's devices should be trusted by:
//! the authority's key lies beside what it signed.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd, string::Ia5String,
};

use crate::terminal::{is_reader_gone, misused, say};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What devices are named in their certificates beside their common name.
const DEVICE_URI: &str = "urn:postrider:device:";

/// Make certificates to try TLS with: an authority, a server, devices
///
/// Run it again with other --device names to make more devices by the same authority.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the files; made when it is missing
    #[arg(default_value = "certs")]
    dir: PathBuf,
    /// A host name or IP address that clients reach the broker by, once for each; localhost, 127.0.0.1 and ::1
    /// are always in
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// A device to make a certificate for, once for each
    #[arg(long, value_name = "NAME", value_parser = device_name)]
    device: Vec<String>,
    /// Days that the certificates of server and devices are valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Days that the authority is valid
    #[arg(long, value_name = "DAYS", default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    ca_days: u32,
    /// Make everything anew: what the old authority signed is worth nothing to the new one
    #[arg(long)]
    force: bool,
}

/// Takes a name that can be a file's.
fn device_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) || name.starts_with(['.', '-']) {
        return Err("a device's name is 1 to 64 letters, digits, `.`, `_` and `-`".to_owned());
    }
    if matches!(name, "ca" | "server") {
        return Err(format!("{name}.crt is another file here, choose another name"));
    }
    Ok(name.to_owned())
}

/// Runs the command.
pub(crate) fn run(args: Args) -> ExitCode {
    match make(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => misused(&format!("{error:#}")),
    }
}

/// The directory, and what was written there.
struct Files<'a> {
    dir: &'a Path,
    is_forced: bool,
    written: Vec<String>,
}

impl Files<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says whether a certificate and its key are there; one without the other is an error.
    fn has_pair(&self, name: &str) -> anyhow::Result<bool> {
        let [certificate, key] = ["crt", "key"].map(|end| self.path(&format!("{name}.{end}")));
        match (certificate.exists(), key.exists()) {
            (true, true) => Ok(!self.is_forced),
            (false, false) => Ok(false),
            _ if self.is_forced => Ok(false),
            (has_certificate, _) => {
                let (there, missing) = if has_certificate { (certificate, key) } else { (key, certificate) };
                bail!(
                    "{} is there without {}: put that back, or use --force to make everything anew",
                    there.display(),
                    missing.display()
                )
            }
        }
    }

    fn write_pair(&mut self, name: &str, certificate: &str, key: &KeyPair) -> anyhow::Result<()> {
        self.write(&format!("{name}.key"), &key.serialize_pem(), 0o600)?;
        self.write(&format!("{name}.crt"), certificate, 0o644)
    }

    fn write(&mut self, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
        let path = self.path(name);
        if self.is_forced && path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        // Never over a file that is there, and never readable by others for a moment.
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.written.push(path.display().to_string());
        Ok(())
    }
}

fn make(args: &Args) -> anyhow::Result<()> {
    let mut files = Files { dir: &args.dir, is_forced: args.force, written: Vec::new() };
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    // Everything is looked at before anything is written.
    let (has_ca, has_server) = (files.has_pair("ca")?, files.has_pair("server")?);
    let mut taken = Vec::new();
    for device in &args.device {
        if files.has_pair(device)? {
            taken.push(files.path(&format!("{device}.crt")).display().to_string());
        }
    }
    if has_server && !args.host.is_empty() {
        taken.push(files.path("server.crt").display().to_string());
    }
    if has_ca && has_server && args.device.is_empty() && args.host.is_empty() {
        taken.extend(["ca.crt", "server.crt"].map(|name| files.path(name).display().to_string()));
    }
    if !taken.is_empty() {
        bail!("{} already there: remove them, or use --force to make everything anew", list(&taken));
    }
    let ca = if has_ca { read_authority(&files)? } else { make_authority(&mut files, args.ca_days)? };
    if !has_server {
        make_server(&mut files, &ca, args)?;
    }
    for device in &args.device {
        make_device(&mut files, &ca, device, args.days)?;
    }
    explain(&files, args)
}

fn list(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

/// A certificate's frame: its name, and from yesterday (clocks differ) for so many days.
fn frame(name: &str, hosts: Vec<String>, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts).context("a host name that no certificate can have")?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    params.not_before = date_time_ymd(1970, 1, 1) + (now - DAY);
    params.not_after = date_time_ymd(1970, 1, 1) + (now + days * DAY);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn make_authority(files: &mut Files<'_>, days: u32) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let mut params = frame("Postrider trial authority", Vec::new(), days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    let key = KeyPair::generate()?;
    let pem = key.serialize_pem();
    let ca = CertifiedIssuer::self_signed(params, key)?;
    files.write_pair("ca", &ca.pem(), &KeyPair::from_pem(&pem)?)?;
    read_authority(files)
}

fn read_authority(files: &Files<'_>) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let read = |name: &str| {
        let path = files.path(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (certificate, key) = (read("ca.crt")?, read("ca.key")?);
    let made = "was it made by this command?";
    // What is wrong with a key is not told: the message could hold it.
    let key = KeyPair::from_pem(&key).ok();
    let key = key.with_context(|| format!("{} holds no key; {made}", files.path("ca.key").display()))?;
    Issuer::from_ca_cert_pem(&certificate, key)
        .with_context(|| format!("{} is no authority; {made}", files.path("ca.crt").display()))
}

fn make_server(files: &mut Files<'_>, ca: &Issuer<'_, KeyPair>, args: &Args) -> anyhow::Result<()> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    hosts.extend(args.host.iter().filter(|host| !hosts.contains(host)).cloned().collect::<Vec<_>>());
    let name = args.host.first().map_or("localhost", String::as_str);
    let mut params = frame(name, hosts, args.days)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    files.write_pair("server", &params.signed_by(&key, ca)?.pem(), &key)
}

fn make_device(files: &mut Files<'_>, ca: &Issuer<'_, KeyPair>, name: &str, days: u32) -> anyhow::Result<()> {
    let mut params = frame(name, Vec::new(), days)?;
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("{DEVICE_URI}{name}"))?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    files.write_pair(name, &params.signed_by(&key, ca)?.pem(), &key)
}

/// Says what is there now, and what to do with it.
fn explain(files: &Files<'_>, args: &Args) -> anyhow::Result<()> {
    let path = |name: &str| files.path(name).display().to_string();
    let (ca, certificate, key) = (path("ca.crt"), path("server.crt"), path("server.key"));
    say(&format!("wrote {}", files.written.join(", ")))?;
    say("\nIn the broker's configuration (paths are relative to where it is started):\n")?;
    say("    [[listener]]\n    name = \"tls\"\n    transport = \"tls\"\n    listen = \"127.0.0.1:8883\"")?;
    say(&format!("    certificate = {certificate:?}\n    key = {key:?}"))?;
    if !args.device.is_empty() {
        say(&format!("    client_ca = {ca:?}\n    client_certificate = \"required\""))?;
    }
    say("\nThen start it, and in two other terminals:\n")?;
    say("    postrider serve --config FILE")?;
    let client = |device: Option<&String>| {
        let own = device.map(|name| {
            format!(" --cert {} --key {}", path(&format!("{name}.crt")), path(&format!("{name}.key")))
        });
        format!("-h localhost -p 8883 --cafile {ca}{}", own.unwrap_or_default())
    };
    let (first, last) = (args.device.first(), args.device.last());
    say(&format!("    mosquitto_sub {} -t 'try/#' -v", client(first)))?;
    say(&format!("    mosquitto_pub {} -t try/this -m hello", client(last)))?;
    if !args.device.is_empty() {
        say(&format!("\nWith client_certificate = \"optional\" a client without one needs {ca} only."))?;
    }
    say(&format!("\nKeep {} to yourself: whoever has it makes devices.", path("ca.key")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_names_of_files() {
        for good in ["truck-1", "a", "A.b_c", &"x".repeat(64)] {
            assert_eq!(device_name(good).unwrap(), good);
        }
        for bad in ["", "../truck", "a/b", ".hidden", "-x", "a b", "ca", "server", &"x".repeat(65), "ä"] {
            assert!(device_name(bad).is_err(), "{bad}");
        }
    }
}
