//! `[[listener]]`: more ways in than the plain one of `[mqtt]`.
//!
//! Each key is declared once below with its documentation, default and example; the struct, the checks and
//! the reference come from that declaration.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{AddressError, Bounds, HostPort, bounds::check_ranges};

/// `[[listener]]` entries at most.
pub(crate) const LISTENERS_MAX: usize = 64;

/// One key of a list such as `[[listener]]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListKey {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    /// A value as TOML, for the reference.
    pub(crate) example: &'static str,
    /// Smallest and largest value, for integers.
    pub(crate) range: Option<(u64, u64)>,
    /// The transports it belongs to; empty = all.
    pub(crate) of: &'static [Transport],
}

/// Declares the keys: struct, defaults, documentation and examples from one text.
macro_rules! listener_keys {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident: $ty:ty = $default:expr, $example:literal, $of:expr $(, $min:literal..=$max:literal)?;
    )+) => {
        /// One `[[listener]]`.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct ListenerConfig { $( $(#[doc = $doc])+ pub $key: $ty, )+ }

        impl Default for ListenerConfig {
            fn default() -> Self { Self { $( $key: $default, )+ } }
        }

        /// The keys of one `[[listener]]`.
        pub(crate) const LISTENER_KEYS: &[ListKey] = &[ $( ListKey {
            name: stringify!($key),
            doc: &[$($doc),+],
            example: $example,
            range: listener_keys!(@range $($min, $max)?),
            of: $of,
        }, )+ ];
    };
    (@range) => { None };
    (@range $min:literal, $max:literal) => { Some(($min, $max)) };
}

const TLS: &[Transport] = &[Transport::Tls, Transport::Wss];
const WEB: &[Transport] = &[Transport::Ws, Transport::Wss];
const IP: &[Transport] = &[Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
const ANY: &[Transport] = &[];

listener_keys! {
    /// Its name, for logs and messages: letters, digits, `-` and `_`.
    name: String = String::new(), "\"tls\"", ANY;
    /// "tcp", "tls", "ws" (WebSocket), "wss" (WebSocket over TLS) or "unix".
    transport: Transport = Transport::Tcp, "\"tls\"", ANY;
    /// HOST:PORT to listen on; the path of the socket for "unix".
    listen: ListenAddress = ListenAddress::Ip(HostPort::new("127.0.0.1", 0)), "\"0.0.0.0:8883\"", ANY;
    /// Its certificate and the ones between it and the root, PEM. Read again when it changes, and at SIGHUP.
    certificate: Option<PathBuf> = None, "\"server.crt\"", TLS;
    /// The private key of the certificate, PEM.
    key: Option<PathBuf> = None, "\"server.key\"", TLS;
    /// Whether clients must show a certificate: "none", "optional" or "required".
    client_certificate: ClientCertificateMode = ClientCertificateMode::None, "\"required\"", TLS;
    /// Who signs the clients' certificates, PEM.
    client_ca: Option<PathBuf> = None, "\"ca.crt\"", TLS;
    /// Revoked client certificates, PEM or DER; one from each authority that signs them.
    client_crl: Vec<PathBuf> = Vec::new(), "[\"ca.crl\"]", TLS;
    /// What names a client with a certificate: "cn" (common name) or "san" (the first alternative
    /// name that is a URI, a DNS name or an email address).
    identity: Identity = Identity::Cn, "\"cn\"", TLS;
    /// Whether a client certificate is enough to come in, as the user that it names. False: a user name and
    /// password, or a token, are asked for as well.
    certificate_is_user: bool = true, "true", TLS;
    /// Oldest TLS version: "1.2" or "1.3".
    tls_min: TlsVersion = TlsVersion::V12, "\"1.2\"", TLS;
    /// The path of the WebSocket.
    path: String = "/mqtt".to_owned(), "\"/mqtt\"", WEB;
    /// Web pages that may connect, as their browser names them ("https://example.com"; "null" is a page
    /// without an origin; "*" is any). Left out, a listener on loopback takes pages of this machine
    /// only, others any; clients that are no browser name none and are always taken.
    origins: Vec<String> = Vec::new(), "[\"https://example.com\"]", WEB;
    /// Whether a proxy stands before it and says with the PROXY protocol (version 1 or 2) who the client is.
    /// A connection without that is closed, so nobody but the proxy may reach the listener.
    proxy_protocol: bool = false, "false", IP;
    /// Whether the common name of a client certificate that the proxy verified names the client
    /// (PP2_SUBTYPE_SSL_CN).
    proxy_identity: bool = false, "false", IP;
    /// Permissions of the socket's file, octal.
    mode: FileMode = FileMode(0o660), "\"0660\"", &[Transport::Unix];
    /// Whether clients may connect without saying who they are; left out, `auth.anonymous` decides.
    anonymous: Option<bool> = None, "false", ANY;
    /// Bounds for those who come in by it: keys as in [[user_limit]] below.
    limits: Bounds = Bounds::default(), "{ connections_max = 1000, messages_per_s = 100 }", ANY;
}

/// What a listener speaks below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A Unix socket.
    Unix,
}

impl Transport {
    /// Says whether it runs over TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Says whether MQTT is in WebSocket frames.
    pub fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Unix => "unix",
        })
    }
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificateMode {
    /// They are not asked.
    None,
    /// They are asked and may have none.
    Optional,
    /// Without one the handshake fails.
    Required,
}

/// What of a certificate names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The subject's common name.
    Cn,
    /// The first alternative name that is a URI, a DNS name or an email address.
    San,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V13,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAddress {
    /// On a port.
    Ip(HostPort),
    /// On a socket in the file system.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains('/') { Ok(Self::Unix(PathBuf::from(text))) } else { text.parse().map(Self::Ip) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

/// Permissions of a file, as `chmod` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(pub u32);

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!("{text:?} is no file mode, expected octal permissions such as \"0660\"")),
        }
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// Reads one `[[listener]]` whose keys are all known, and checks what its keys say together.
pub(super) fn check(table: &Table) -> Result<ListenerConfig, String> {
    for (key, example) in [("name", "name = \"tls\""), ("listen", "listen = \"0.0.0.0:8883\"")] {
        if !table.contains_key(key) {
            return Err(format!("`{key}` is missing, for instance {example}"));
        }
    }
    let text = |key| table.get(key).and_then(Value::as_str);
    if let (Some("unix"), Some(listen)) = (text("transport"), text("listen"))
        && !listen.contains('/')
    {
        return Err(format!(
            "listen = {listen:?} is no path, transport \"unix\" needs one with a `/`, for instance \"./mqtt.sock\""
        ));
    }
    let config: ListenerConfig = serde::Deserialize::deserialize(Value::Table(table.clone()))
        .map_err(|error: toml::de::Error| error.message().to_owned())?;
    for key in LISTENER_KEYS.iter().filter(|key| table.contains_key(key.name)) {
        if let (Some((min, max)), Some(number)) = (key.range, table[key.name].as_integer())
            && !u64::try_from(number).is_ok_and(|number| (min..=max).contains(&number))
        {
            return Err(format!("{} = {number} is out of range, allowed are {min} to {max}", key.name));
        }
        if !key.of.is_empty() && !key.of.contains(&config.transport) {
            let of: Vec<_> = key.of.iter().map(|transport| format!("{:?}", transport.to_string())).collect();
            let transport = config.transport;
            return Err(format!(
                "`{}` is a setting of transport {} only, and transport = \"{transport}\"",
                key.name,
                of.join(", ")
            ));
        }
    }
    if let Some(limits) = table.get("limits").and_then(Value::as_table) {
        check_ranges(limits).map_err(|what| format!("limits: {what}"))?;
    }
    config.check()?;
    Ok(config)
}

impl ListenerConfig {
    fn check(&self) -> Result<(), String> {
        let Self { name, transport, listen, path, .. } = self;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            return Err(format!("name = {name:?} is no name, expected 1 to 64 letters, digits, `-` and `_`"));
        }
        if matches!(name.as_str(), "mqtt" | "http") {
            return Err(format!("name = {name:?} is the name of the listener of [{name}], choose another"));
        }
        if let ListenAddress::Unix(_) = listen
            && *transport != Transport::Unix
        {
            return Err(format!(
                "listen = \"{listen}\" is a path, transport \"{transport}\" needs HOST:PORT"
            ));
        }
        if transport.is_tls() {
            for (key, value) in [("certificate", &self.certificate), ("key", &self.key)] {
                if value.is_none() {
                    return Err(format!(
                        "`{key}` is missing, transport \"{transport}\" needs one; `postrider certs` makes \
                         some for a trial"
                    ));
                }
            }
            let is_asked = self.client_certificate != ClientCertificateMode::None;
            if is_asked != self.client_ca.is_some() {
                return Err(
                    "`client_certificate` and `client_ca` belong together: set both or none".to_owned()
                );
            }
            if !is_asked && !self.client_crl.is_empty() {
                return Err(
                    "`client_crl` says nothing without `client_certificate` and `client_ca`".to_owned()
                );
            }
        }
        if !path.starts_with('/') {
            return Err(format!("path = {path:?} does not start with `/`"));
        }
        if self.proxy_identity && !self.proxy_protocol {
            return Err("`proxy_identity` says nothing without proxy_protocol = true".to_owned());
        }
        Ok(())
    }
}
