//! Proxies on the way to the broker: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//!
//! The proxy looks the broker's name up: behind a proxy a device often has no DNS that knows it.

use std::fmt;
use std::str::FromStr;

use super::endpoint::split_host;

/// What kind of proxy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

/// A proxy: `http://`, `socks5://` or `socks5h://`, perhaps with user name and password.
///
/// Both `socks5` schemes mean the same here: the proxy looks the broker's name up. Special characters of the
/// password are percent-encoded. Neither `Debug` nor an error shows the password.
///
/// ```
/// use device_sdk::{Options, Proxy};
/// let proxy: Proxy = "http://truck-7:secret@proxy.example:3128".parse()?;
/// assert_eq!(proxy.to_string(), "http://proxy.example:3128");
/// let mut options = Options::new("mqtts://broker.example", "truck-7");
/// options.reach.proxy = Some(proxy);
/// # Ok::<(), device_sdk::ProxyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    login: Option<Login>,
}

#[derive(Clone, PartialEq, Eq)]
struct Login {
    username: Vec<u8>,
    password: Vec<u8>,
}

/// Why a text names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "proxy {what}; it is a URL such as http://proxy.example:3128 or socks5h://user:password@proxy.example:1080"
)]
pub struct ProxyError {
    what: String,
}

impl Proxy {
    /// Returns the proxy's host: a name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the proxy's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("has no scheme")?;
        let (kind, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 8080),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            other => return Err(format!("scheme {other:?} is not http, socks5 or socks5h")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(Login::parse(login, kind)?), address),
            None => (None, rest),
        };
        let (host, port) = split_host(address).map_err(|what| format!("address {address:?}: {what}"))?;
        Ok(Self { kind, host, port: port.unwrap_or(default_port), login })
    }
}

impl Login {
    fn parse(text: &str, kind: Kind) -> Result<Self, String> {
        let (username, password) = text.split_once(':').unwrap_or((text, ""));
        let login = Self { username: percent_decoded(username)?, password: percent_decoded(password)? };
        match kind {
            // RFC 1929, section 2: one byte says how long each is.
            Kind::Socks5
                if login.username.is_empty() || login.username.len().max(login.password.len()) > 255 =>
            {
                Err("user name and password must have 1 to 255 bytes for SOCKS".to_owned())
            }
            // RFC 7617, section 2.
            Kind::Http if login.username.contains(&b':') => {
                Err("user name must be without a colon for HTTP".to_owned())
            }
            _ => Ok(login),
        }
    }
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high * 16 + low) as u8),
            _ => return Err("user name or password has a % without two hexadecimal digits".to_owned()),
        }
    }
    Ok(decoded)
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        Self::parse(text).map_err(|what| ProxyError { what })
    }
}

impl fmt::Display for Proxy {
    /// Shows the address alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5h",
        };
        write!(f, "{scheme}://{}:{}", super::endpoint::bracketed(&self.host), self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|_| "***");
        f.debug_struct("Proxy").field("address", &self.to_string()).field("login", &login).finish()
    }
}

#[cfg(feature = "proxy")]
mod tunnel {
    use std::io;
    use std::net::IpAddr;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::endpoint::bracketed;
    use super::super::http_head;
    use super::{Kind, Login, Proxy};

    const SOCKS_VERSION: u8 = 5;
    const LOGIN_VERSION: u8 = 1;
    const NO_LOGIN: u8 = 0;
    const WITH_LOGIN: u8 = 2;
    const CONNECT: u8 = 1;
    const IPV4: u8 = 1;
    const NAME: u8 = 3;
    const IPV6: u8 = 4;

    /// What the reply of a SOCKS proxy means (RFC 1928, section 6).
    const REPLIES: [&str; 9] = [
        "succeeded",
        "general failure",
        "not allowed by its rules",
        "the network is unreachable",
        "the host is unreachable",
        "the connection was refused",
        "the time to live expired",
        "it knows no CONNECT",
        "it does not know this type of address",
    ];

    impl Proxy {
        /// Asks the proxy for a connection; from then on the stream's bytes go to and from the host.
        pub(in crate::endpoints) async fn open(
            &self,
            stream: &mut TcpStream,
            host: &str,
            port: u16,
        ) -> io::Result<()> {
            let opened = match self.kind {
                Kind::Http => self.open_http(stream, host, port).await,
                Kind::Socks5 => self.open_socks(stream, host, port).await,
            };
            opened.map_err(|error| io::Error::new(error.kind(), format!("proxy {self}: {error}")))
        }

        async fn open_http(&self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
            let target = format!("{}:{port}", bracketed(host));
            let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
            if let Some(Login { username, password }) = &self.login {
                let login = STANDARD.encode([username, &b":"[..], password].concat());
                request.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
            }
            request.push_str("\r\n");
            stream.write_all(request.as_bytes()).await?;
            let head = http_head::read(stream).await?;
            match (head.status, &self.login) {
                (200..300, _) => Ok(()),
                (407, None) => Err(io::Error::other("it wants a user name and password")),
                (407, Some(_)) => {
                    let schemes = head.header("proxy-authenticate").unwrap_or("nothing");
                    let scheme: String =
                        schemes.split(' ').next().unwrap_or_default().chars().take(32).collect();
                    Err(io::Error::other(format!(
                        "it refused the user name or password (it asks for {scheme}, Basic is what this client has)"
                    )))
                }
                (status, _) => Err(io::Error::other(format!("it answered {status} to CONNECT {target}"))),
            }
        }

        async fn open_socks(&self, stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
            // Without a login the proxy must not choose that method.
            let methods: &[u8] = if self.login.is_some() { &[NO_LOGIN, WITH_LOGIN] } else { &[NO_LOGIN] };
            let mut greeting = vec![SOCKS_VERSION, methods.len() as u8];
            greeting.extend_from_slice(methods);
            stream.write_all(&greeting).await?;
            let mut chosen = [0; 2];
            stream.read_exact(&mut chosen).await?;
            match (chosen, &self.login) {
                ([SOCKS_VERSION, NO_LOGIN], _) => {}
                ([SOCKS_VERSION, WITH_LOGIN], Some(login)) => log_in(stream, login).await?,
                ([SOCKS_VERSION, _], None) => {
                    return Err(io::Error::other("it wants a user name and password"));
                }
                ([SOCKS_VERSION, _], Some(_)) => {
                    return Err(io::Error::other("it wants a login that is neither none nor a password"));
                }
                ([version, _], _) => return Err(other_version(version)),
            }
            let mut request = vec![SOCKS_VERSION, CONNECT, 0];
            match host.parse() {
                Ok(IpAddr::V4(address)) => {
                    request.push(IPV4);
                    request.extend_from_slice(&address.octets());
                }
                Ok(IpAddr::V6(address)) => {
                    request.push(IPV6);
                    request.extend_from_slice(&address.octets());
                }
                // A host has at most 255 bytes, see `split_host`.
                Err(_) => {
                    request.extend_from_slice(&[NAME, host.len() as u8]);
                    request.extend_from_slice(host.as_bytes());
                }
            }
            request.extend_from_slice(&port.to_be_bytes());
            stream.write_all(&request).await?;
            read_reply(stream, host, port).await
        }
    }

    /// RFC 1929.
    async fn log_in(stream: &mut TcpStream, Login { username, password }: &Login) -> io::Result<()> {
        let mut request = vec![LOGIN_VERSION, username.len() as u8];
        request.extend_from_slice(username);
        request.push(password.len() as u8);
        request.extend_from_slice(password);
        stream.write_all(&request).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        if answer[1] == 0 { Ok(()) } else { Err(io::Error::other("it refused the user name or password")) }
    }

    async fn read_reply(stream: &mut TcpStream, host: &str, port: u16) -> io::Result<()> {
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await?;
        let [version, code, _, address_type] = reply;
        if version != SOCKS_VERSION {
            return Err(other_version(version));
        }
        if code != 0 {
            let what = REPLIES.get(usize::from(code)).unwrap_or(&"for a reason that it does not name");
            return Err(io::Error::other(format!("no connection to {}:{port}: {what}", bracketed(host))));
        }
        // The address it connects from, of no use here.
        let rest = match address_type {
            IPV4 => 4,
            IPV6 => 16,
            NAME => usize::from(stream.read_u8().await?),
            other => return Err(io::Error::other(format!("its reply has an address of type {other}"))),
        };
        stream.read_exact(&mut vec![0; rest + 2]).await?;
        Ok(())
    }

    fn other_version(version: u8) -> io::Error {
        io::Error::other(format!("it speaks no SOCKS 5: its answer begins with {version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_shown_without_their_password() {
        for (text, shown) in [
            ("http://p", "http://p:8080"),
            ("HTTP://u:hunter2@p:3128/", "http://p:3128"),
            ("socks5://[::1]", "socks5h://[::1]:1080"),
            ("socks5h://u:hunter2@p:9", "socks5h://p:9"),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert!(!format!("{proxy:?}").contains("hunter2"));
        }
        let proxy: Proxy = "http://us%65r:p%40ss%3a@p".parse().unwrap();
        assert!(proxy.login.is_some_and(|login| login.username == b"user" && login.password == b"p@ss:"));
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_passwords_are_not_repeated() {
        let long = format!("socks5://{}:hunter2@p", "u".repeat(256));
        for (text, expected) in [
            ("proxy:3128", "has no scheme"),
            ("https://u:hunter2@p", "\"https\" is not http, socks5 or socks5h"),
            ("http://u:hunter2@", "no host"),
            ("http://u:hunter2@p:0", "1 to 65535"),
            ("http://u%3Au:hunter2@p", "without a colon"),
            ("http://u:hunter2%4@p", "two hexadecimal digits"),
            (&long, "1 to 255 bytes"),
        ] {
            let error = text.parse::<Proxy>().expect_err(text).to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
