//! One way to reach a broker, as a URL says it.
//!
//! A URL without a port stands for a whole ladder of ways, see [`Ladder`]; every other is exactly one.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// What carries the bytes of MQTT.
///
/// ```
/// use device_sdk::{Carrier, Endpoint};
/// let endpoint: Endpoint = "wss://broker.example".parse()?;
/// assert_eq!(endpoint.carrier(), Carrier::SecureWebSocket);
/// assert!(endpoint.carrier().is_secure() && endpoint.carrier().is_web_socket());
/// # Ok::<(), device_sdk::EndpointError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// TCP, `mqtt://`.
    Tcp,
    /// TLS, `mqtts://`.
    Tls,
    /// WebSocket, `ws://`.
    WebSocket,
    /// WebSocket over TLS, `wss://`.
    SecureWebSocket,
}

impl Carrier {
    /// Every carrier with the scheme of its URL.
    const SCHEMES: [(&'static str, Self); 4] =
        [("mqtt", Self::Tcp), ("mqtts", Self::Tls), ("ws", Self::WebSocket), ("wss", Self::SecureWebSocket)];

    fn scheme(self) -> &'static str {
        Self::SCHEMES[self as usize].0
    }

    /// Says whether it encrypts, and proves who the broker is.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebSocket)
    }

    /// Says whether MQTT travels in WebSocket frames.
    pub fn is_web_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SecureWebSocket)
    }
}

/// A broker's address: `mqtt://`, `mqtts://`, `ws://` or `wss://`, a host, perhaps a port and for WebSocket a path.
///
/// ```
/// use device_sdk::{Carrier, Endpoint};
/// let endpoint: Endpoint = "wss://broker.example/mqtt".parse()?;
/// assert_eq!((endpoint.carrier(), endpoint.host()), (Carrier::SecureWebSocket, "broker.example"));
/// // Without a port a URL stands for the usual ports, see `Ladder`; with one it means this port alone.
/// assert_eq!(endpoint.port(), None);
/// assert!("broker.example:1883".parse::<Endpoint>()?.port() == Some(1883));
/// assert!("http://broker.example".parse::<Endpoint>().is_err());
/// # Ok::<(), device_sdk::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub(super) carrier: Carrier,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// Whether TLS names the protocol inside it (RFC 7301), as port 443 needs it to tell MQTT from web pages.
    pub(super) with_alpn: bool,
    /// Of a WebSocket; empty otherwise.
    pub(super) path: String,
}

/// Why a text is no address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "broker address {text:?}: {what}; it is HOST:PORT, or a URL such as mqtts://broker.example or \
     wss://broker.example:443/mqtt"
)]
pub struct EndpointError {
    /// The text, without what may be a password in it.
    text: String,
    what: String,
}

/// Longest host name of DNS, and the longest that SOCKS can say.
pub(super) const HOST_BYTES_MAX: usize = 255;
/// Longest path of a WebSocket.
const PATH_BYTES_MAX: usize = 1024;
/// What asks for ALPN on a port of its own.
const ALPN_QUERY: &str = "alpn=mqtt";

impl Endpoint {
    /// Returns what carries the bytes.
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// Returns the host: a name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, `None` when the usual ones are meant.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns the same address over TLS.
    pub(crate) fn secured(mut self) -> Self {
        self.carrier = match self.carrier {
            Carrier::Tcp => Carrier::Tls,
            Carrier::WebSocket => Carrier::SecureWebSocket,
            secure => secure,
        };
        self
    }

    fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let (host, port) = split_host(text)?;
            let port = port.ok_or("it has no port")?;
            return Ok(Self {
                carrier: Carrier::Tcp,
                host,
                port: Some(port),
                with_alpn: false,
                path: String::new(),
            });
        };
        let known = Carrier::SCHEMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        let (_, carrier) = *known.ok_or("its scheme is not mqtt, mqtts, ws or wss")?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a user name and password are options of their own, not parts of it".to_owned());
        }
        let (host, port) = split_host(authority)?;
        let mut endpoint = Self { carrier, host, port, with_alpn: false, path: String::new() };
        if carrier.is_web_socket() {
            let is_plain_text = tail.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !is_plain_text || tail.len() > PATH_BYTES_MAX {
                return Err(format!(
                    "its path must be of visible ASCII characters, without #, at most {PATH_BYTES_MAX}"
                ));
            }
            endpoint.path = match tail {
                "" => DEFAULT_PATH.to_owned(),
                query if query.starts_with('?') => format!("/{query}"),
                path => path.to_owned(),
            };
            return Ok(endpoint);
        }
        match tail.trim_start_matches('/').strip_prefix('?') {
            None if matches!(tail, "" | "/") => {}
            Some(ALPN_QUERY) if carrier == Carrier::Tls && port.is_some() => endpoint.with_alpn = true,
            Some(ALPN_QUERY) => return Err(format!("{ALPN_QUERY} needs mqtts:// and a port")),
            _ => return Err(format!("nothing may follow its port but ?{ALPN_QUERY}, yet {tail:?} does")),
        }
        Ok(endpoint)
    }
}

/// Where brokers serve WebSocket.
pub(super) const DEFAULT_PATH: &str = "/mqtt";

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(super) fn split_host(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("its bracket is not closed")?;
            host.parse::<Ipv6Addr>().map_err(|_| format!("[{host}] is no IPv6 address"))?;
            match rest {
                "" => (host, None),
                _ => (host, Some(rest.strip_prefix(':').ok_or("only a port may follow its bracket")?)),
            }
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address stands in brackets".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("it has no host".to_owned());
    }
    let is_host = host.chars().all(|c| c.is_alphanumeric() || ".-_:".contains(c));
    if !is_host || host.len() > HOST_BYTES_MAX {
        return Err("its host is no name that can be looked up".to_owned());
    }
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Some(number),
            _ => return Err("its port is not a number of 1 to 65535".to_owned()),
        },
    };
    Ok((host.to_owned(), port))
}

/// Puts an IPv6 address into brackets.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text).map_err(|what| {
            // What stands before an @ may be a password.
            let shown =
                text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("***@{rest}"));
            EndpointError { text: shown.chars().take(128).collect(), what }
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.carrier.scheme(), bracketed(&self.host))?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)?;
        if self.with_alpn { write!(f, "?{ALPN_QUERY}") } else { Ok(()) }
    }
}

/// What a URL without a port stands for, from the best way to the one that passes most firewalls; each step is tried when
/// those before it failed or have not answered for `step_ms`.
///
/// | step | `mqtts://host` | `mqtt://host`, for trials | `wss://host` | `ws://host` |
/// | --- | --- | --- | --- | --- |
/// | 1 | TLS on 8883 | TCP on 1883 | WebSocket over TLS on 443 | WebSocket on 80 |
/// | 2 | TLS with ALPN `mqtt` on 443 | WebSocket on 80 | | |
/// | 3 | WebSocket over TLS on 443, `/mqtt` | | | |
///
/// A step for networks that let only HTTP requests through comes behind the last one, where the broker serves it.
///
/// ```
/// use device_sdk::{Ladder, Options};
/// let mut options = Options::new("mqtts://broker.example", "truck-7");
/// // This broker serves WebSocket on its HTTP port.
/// options.reach.ladder = Ladder { secure_web_socket_port: 8443, ..Ladder::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Port of MQTT over TLS.
    pub tls_port: u16,
    /// Port of MQTT over TLS with ALPN.
    pub alpn_port: u16,
    /// Port of MQTT over secure WebSocket.
    pub secure_web_socket_port: u16,
    /// Port of MQTT over TCP.
    pub tcp_port: u16,
    /// Port of MQTT over WebSocket.
    pub web_socket_port: u16,
    /// Path of the WebSocket for `mqtt://` and `mqtts://`.
    pub path: String,
    /// How long a step has before the next one begins beside it, milliseconds.
    pub step_ms: u64,
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            tls_port: 8883,
            alpn_port: 443,
            secure_web_socket_port: 443,
            tcp_port: 1883,
            web_socket_port: 80,
            path: DEFAULT_PATH.to_owned(),
            step_ms: 2_000,
        }
    }
}

impl Ladder {
    /// Returns the ways that an address stands for, each with its port, best first.
    pub(super) fn ways(&self, endpoint: &Endpoint) -> Vec<Endpoint> {
        if endpoint.port.is_some() {
            return vec![endpoint.clone()];
        }
        let way = |carrier: Carrier, port, with_alpn| {
            let path = match (carrier.is_web_socket(), endpoint.carrier.is_web_socket()) {
                (true, true) => endpoint.path.clone(),
                (true, false) => self.path.clone(),
                (false, _) => String::new(),
            };
            Endpoint { carrier, host: endpoint.host.clone(), port: Some(port), with_alpn, path }
        };
        match endpoint.carrier {
            Carrier::Tls => vec![
                way(Carrier::Tls, self.tls_port, false),
                way(Carrier::Tls, self.alpn_port, true),
                way(Carrier::SecureWebSocket, self.secure_web_socket_port, false),
            ],
            Carrier::Tcp => vec![
                way(Carrier::Tcp, self.tcp_port, false),
                way(Carrier::WebSocket, self.web_socket_port, false),
            ],
            Carrier::SecureWebSocket => {
                vec![way(Carrier::SecureWebSocket, self.secure_web_socket_port, false)]
            }
            Carrier::WebSocket => vec![way(Carrier::WebSocket, self.web_socket_port, false)],
        }
        .into_iter()
        .filter(|way| cfg!(feature = "websocket") || !way.carrier.is_web_socket())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for text in [
            "mqtt://h:1",
            "mqtts://broker.example",
            "mqtts://10.0.0.1:443?alpn=mqtt",
            "ws://[::1]:8080/mqtt",
            "wss://h:443/a/b?c=d",
            "wss://h/mqtt",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        for (text, expected) in [
            ("localhost:1883", "mqtt://localhost:1883"),
            ("[::1]:1883", "mqtt://[::1]:1883"),
            ("MQTTS://h/", "mqtts://h"),
            ("ws://h:80", "ws://h:80/mqtt"),
            ("ws://h:80?x", "ws://h:80/?x"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_passwords_are_not_repeated() {
        for (text, expected) in [
            ("localhost", "\"localhost\": it has no port"),
            ("", "it has no host"),
            (":1883", "no host"),
            ("h:0", "1 to 65535"),
            ("h:+1", "1 to 65535"),
            ("h:65536", "1 to 65535"),
            ("::1:1883", "in brackets"),
            ("[::1:1883", "bracket is not closed"),
            ("[::1]1883", "only a port"),
            ("[h]:1", "no IPv6 address"),
            ("a b:1", "no name that can be looked up"),
            ("http://h", "scheme is not mqtt, mqtts, ws or wss"),
            ("mqtt://h/topic", "\"/topic\" does"),
            ("mqtts://h?alpn=mqtt", "needs mqtts:// and a port"),
            ("mqtt://h:1?alpn=mqtt", "needs mqtts:// and a port"),
            ("wss://h/a b", "visible ASCII"),
            ("wss://h/a#b", "without #"),
            ("mqtt://user:secret@h:1", "\"***@h:1\": a user name and password are options"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "websocket")]
    fn an_address_without_a_port_stands_for_its_ladder() {
        for (text, expected) in [
            ("mqtts://h", &["mqtts://h:8883", "mqtts://h:443?alpn=mqtt", "wss://h:443/mqtt"][..]),
            ("mqtt://h", &["mqtt://h:1883", "ws://h:80/mqtt"]),
            ("wss://h/x", &["wss://h:443/x"]),
            ("ws://h", &["ws://h:80/mqtt"]),
            ("mqtts://h:8883", &["mqtts://h:8883"]),
            ("h:1", &["mqtt://h:1"]),
        ] {
            let ways = Ladder::default().ways(&text.parse().unwrap());
            assert_eq!(ways.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
    }
}
