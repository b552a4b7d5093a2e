//! Certificates good and bad, and what becomes of them when they change.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, SanType,
    string::Ia5String,
};

use super::*;

struct Files {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Files {
    fn new() -> Self {
        let mut params = named("a test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self { dir: tempfile::tempdir().unwrap(), ca };
        files.write("ca.crt", files.ca.pem());
        files.server(&named("server"));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn server(&self, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        self.write("server.crt", params.signed_by(&key, &self.ca).unwrap().pem());
        self.write("server.key", key.serialize_pem());
    }

    fn listener(&self) -> ListenerConfig {
        ListenerConfig {
            name: "tls".to_owned(),
            transport: Transport::Tls,
            certificate: Some(self.path("server.crt")),
            key: Some(self.path("server.key")),
            ..ListenerConfig::default()
        }
    }

    fn error(&self, change: impl FnOnce(&mut ListenerConfig)) -> String {
        let mut listener = self.listener();
        change(&mut listener);
        Tls::load(&listener).map(drop).unwrap_err()
    }
}

#[test]
fn each_file_that_cannot_be_used_is_named_with_what_to_do() {
    let files = Files::new();
    Tls::load(&files.listener()).unwrap();
    files.write("empty", "");
    files.write("other.key", KeyPair::generate().unwrap().serialize_pem());
    files.write(
        "encrypted",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let set = |name: &str| Some(files.path(name));
    for (error, place, what) in [
        (files.error(|l| l.certificate = set("none")), "none", "No such file or directory"),
        (files.error(|l| l.certificate = set("none")), "none", "`postrider certs` makes certificates"),
        (files.error(|l| l.certificate = set("empty")), "empty", "holds no certificate in PEM form"),
        (
            files.error(|l| l.certificate = set("server.key")),
            "server.key",
            "holds no certificate in PEM form",
        ),
        (files.error(|l| l.key = set("server.crt")), "server.crt", "holds no private key in PEM form"),
        (files.error(|l| l.key = set("encrypted")), "encrypted", "take the passphrase off"),
        (files.error(|l| l.key = set("other.key")), "other.key", "is not the private key of"),
        (
            files.error(|l| {
                l.client_certificate = ClientCertificateMode::Required;
                l.client_ca = set("empty");
            }),
            "empty",
            "holds no certificate in PEM form",
        ),
        (
            files.error(|l| {
                l.client_certificate = ClientCertificateMode::Required;
                l.client_ca = set("ca.crt");
                l.client_crl = vec![files.path("empty")];
            }),
            "empty",
            "holds no revocation list",
        ),
    ] {
        assert!(error.contains(&files.path(place).display().to_string()), "{error}");
        assert!(error.contains(what), "{error}");
        let key = fs::read_to_string(files.path("server.key")).unwrap();
        assert!(!error.contains(key.lines().nth(1).unwrap()), "a key is in {error}");
    }
}

#[test]
fn a_bad_new_certificate_keeps_the_old_one_and_a_good_one_takes_its_place() {
    let files = Files::new();
    let tls = Tls::load(&files.listener()).unwrap();
    let first = tls.current();
    files.write("server.crt", "no certificate");
    assert!(tls.reload().unwrap_err().contains("holds no certificate"));
    assert!(Arc::ptr_eq(&first, &tls.current()));
    files.server(&named("the second"));
    let holds = tls.reload().unwrap();
    assert!(holds.starts_with("certificate of CN=the second until "), "{holds}");
    assert!(!Arc::ptr_eq(&first, &tls.current()));
}

#[test]
fn what_is_printed_of_it_has_no_key() {
    let files = Files::new();
    let tls = Tls::load(&files.listener()).unwrap();
    assert_eq!(format!("{tls:?}"), "Tls { listener: \"tls\", .. }");
}

fn identity_of(params: &CertificateParams, kind: Identity) -> Result<String, String> {
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    identity(certificate.der(), kind)
}

#[test]
fn a_client_is_named_by_its_common_or_alternative_name() {
    let text = |text: &str| Ia5String::try_from(text).unwrap();
    let mut params = named("truck-7");
    for (names, expected) in [
        (vec![SanType::URI(text("urn:dev:truck-7"))], "urn:dev:truck-7"),
        (vec![SanType::DnsName(text("truck-7.example"))], "truck-7.example"),
        (vec![SanType::Rfc822Name(text("truck-7@example.com"))], "truck-7@example.com"),
        (
            vec![
                SanType::IpAddress([127, 0, 0, 1].into()),
                SanType::URI(text("urn:a")),
                SanType::URI(text("urn:b")),
            ],
            "urn:a",
        ),
    ] {
        params.subject_alt_names = names;
        assert_eq!(identity_of(&params, Identity::San).unwrap(), expected);
        assert_eq!(identity_of(&params, Identity::Cn).unwrap(), "truck-7");
    }
}

#[test]
fn a_certificate_that_names_nobody_or_badly_is_refused() {
    let mut nobody = named("x");
    nobody.distinguished_name = DistinguishedName::new();
    nobody.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    for kind in [Identity::Cn, Identity::San] {
        assert!(identity_of(&nobody, kind).unwrap_err().starts_with("a client certificate without "));
    }
    for bad in ["", "line\nbreak", "nul\0", &"x".repeat(IDENTITY_BYTES_MAX + 1)] {
        let error = checked_identity(bad.to_owned()).unwrap_err();
        assert!(error.contains("control characters"), "{error}");
        assert!(!error.contains('\n') && !error.contains('\0'));
    }
    assert!(identity(b"no certificate", Identity::Cn).unwrap_err().contains("that is none"));
}

#[test]
fn the_files_that_are_watched_are_all_that_are_read() {
    let files = Files::new();
    let mut listener = files.listener();
    listener.client_ca = Some("ca".into());
    listener.client_crl = vec!["crl".into()];
    let watched = super::files(&listener);
    let names: Vec<_> = watched.iter().map(|path| path.file_name().unwrap().to_string_lossy()).collect();
    assert_eq!(names, ["server.crt", "server.key", "ca", "crl"]);
    assert!(Path::new(&watched[0]).exists());
}

#[test]
fn a_certificate_is_told_about_before_it_ends_and_after() {
    let (from, to) = (1_000_000, 100_000_000);
    for (now, expected) in [
        (from - 1, Age::Unborn),
        (from, Age::Good),
        (to - EXPIRES_SOON_S, Age::Good),
        (to - EXPIRES_SOON_S + 1, Age::Late),
        (to, Age::Late),
        (to + 1, Age::Expired),
    ] {
        assert_eq!(Age::of(now, from, to), expected, "{now}");
    }
}
