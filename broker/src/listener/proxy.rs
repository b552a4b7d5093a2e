//! The PROXY protocol, versions 1 and 2: who the client behind a proxy is.
//!
//! Only the header is read, to the byte: what follows belongs to TLS, WebSocket or MQTT.

use std::{io, net::SocketAddr};

use ppp::{v1, v2};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};

/// The longest header of version 1, its line break included.
const TEXT_BYTES_MAX: usize = 107;

/// The longest header of version 2 that is taken; 16 bytes, addresses, and what else proxies tell.
const BINARY_BYTES_MAX: usize = 4096;

/// Bytes that tell the versions apart, and less than the shortest header.
const FIRST_BYTES: usize = 12;

/// Bytes of version 2 up to its length, that included.
const BINARY_HEAD_BYTES: usize = 16;

/// What the proxy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proxied {
    /// The client's address; none when the proxy speaks for itself or does not know.
    pub(super) address: Option<SocketAddr>,
    /// The common name of the client's certificate, where the proxy verified one.
    pub(super) common_name: Option<String>,
}

/// Why a header cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The connection does not begin with one.
    #[error("the connection does not begin with a PROXY protocol header: is it from the proxy?")]
    None,
    /// It is longer than allowed.
    #[error("a PROXY protocol header of {0} bytes, allowed are {BINARY_BYTES_MAX}")]
    TooLong(usize),
    /// It is no valid header.
    #[error("a bad PROXY protocol header: {0}")]
    Bad(String),
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header from the socket.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Proxied, ProxyError> {
    let header = read_header(stream).await?;
    parse(&header)
}

pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, ProxyError> {
    let mut header = vec![0; FIRST_BYTES];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(BINARY_HEAD_BYTES, 0);
        stream.read_exact(&mut header[FIRST_BYTES..]).await?;
        let whole = BINARY_HEAD_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
        if whole > BINARY_BYTES_MAX {
            return Err(ProxyError::TooLong(whole));
        }
        header.resize(whole, 0);
        stream.read_exact(&mut header[BINARY_HEAD_BYTES..]).await?;
        return Ok(header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(ProxyError::None);
    }
    // Where the line ends is not known before its end, and what follows is not ours to take.
    while !header.ends_with(b"\r\n") {
        if header.len() == TEXT_BYTES_MAX {
            return Err(ProxyError::Bad(format!("a line longer than {TEXT_BYTES_MAX} bytes")));
        }
        header.push(stream.read_u8().await?);
    }
    Ok(header)
}

pub(super) fn parse(header: &[u8]) -> Result<Proxied, ProxyError> {
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        let header = v2::Header::try_from(header).map_err(|error| ProxyError::Bad(error.to_string()))?;
        return binary(&header);
    }
    let header = v1::Header::try_from(header).map_err(|error| ProxyError::Bad(error.to_string()))?;
    let address = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some(SocketAddr::from((ip.source_address, ip.source_port))),
        v1::Addresses::Tcp6(ip) => Some(SocketAddr::from((ip.source_address, ip.source_port))),
    };
    Ok(Proxied { address, common_name: None })
}

fn binary(header: &v2::Header<'_>) -> Result<Proxied, ProxyError> {
    if header.command == v2::Command::Local {
        return Ok(Proxied::default());
    }
    let address = match header.addresses {
        _ if header.protocol == v2::Protocol::Datagram => {
            return Err(ProxyError::Bad("it says that the client came by UDP".to_owned()));
        }
        v2::Addresses::IPv4(ip) => Some(SocketAddr::from((ip.source_address, ip.source_port))),
        v2::Addresses::IPv6(ip) => Some(SocketAddr::from((ip.source_address, ip.source_port))),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    let mut common_name = None;
    // Without an address ppp counts all that follows as address, so there is nothing to look through.
    for field in header.tlvs() {
        let field = field.map_err(|error| ProxyError::Bad(error.to_string()))?;
        if field.kind == v2::Type::SSL as u8 {
            common_name = verified_name(&field.value)?;
        }
    }
    Ok(Proxied { address, common_name })
}

/// Takes the common name out of PP2_TYPE_SSL: one byte of flags, four that are 0 when the client's certificate was
/// verified, then fields.
fn verified_name(value: &[u8]) -> Result<Option<String>, ProxyError> {
    /// The client showed a certificate in this connection, or in this session.
    const SHOWN: u8 = 0x02 | 0x04;
    let Some((&[flags, ref verify @ ..], fields)) = value.split_first_chunk::<5>() else {
        return Err(ProxyError::Bad("its field about TLS is cut".to_owned()));
    };
    if flags & SHOWN == 0 || *verify != [0; 4] {
        return Ok(None);
    }
    let mut name = None;
    // All of them, also those behind the name: a header that is cut in the middle of one says nothing that can be trusted.
    for field in v2::TypeLengthValues::from(fields) {
        let field = field.map_err(|error| ProxyError::Bad(error.to_string()))?;
        if field.kind == v2::Type::SSLCommonName as u8 && name.is_none() {
            name = Some(field.value.into_owned());
        }
    }
    let name = name.map(String::from_utf8).transpose();
    name.map_err(|_| ProxyError::Bad("a common name that is no UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// Reads a header off a stream; returns what is left of it too.
    fn read_off(mut stream: &[u8]) -> Result<(Proxied, Vec<u8>), String> {
        let header = block_on(read_header(&mut stream)).map_err(|error| error.to_string())?;
        parse(&header).map(|proxied| (proxied, stream.to_vec())).map_err(|error| error.to_string())
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, body].concat()
    }

    const IPV4: &[u8] = &[203, 0, 113, 7, 127, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b];

    fn ssl(flags: u8, verify: u32, name: &[u8]) -> Vec<u8> {
        let inner = [&[flags][..], &verify.to_be_bytes(), &[0x22, 0, name.len() as u8], name].concat();
        [IPV4, &[0x04, 0, 1, 0], &[0x20, 0, inner.len() as u8], &inner].concat()
    }

    fn client(text: &str) -> Proxied {
        Proxied { address: Some(text.parse().unwrap()), common_name: None }
    }

    #[test]
    fn good_headers_say_who_the_client_is_and_leave_the_rest() {
        let ipv6: Vec<u8> =
            [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0, 80, 1, 187]].concat();
        let named = Proxied { common_name: Some("device-7".to_owned()), ..client("203.0.113.7:12345") };
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.7 127.0.0.1 12345 1883\r\n".to_vec(), client("203.0.113.7:12345")),
            (b"PROXY TCP6 2001:db8::9 ::1 80 1883\r\n".to_vec(), client("[2001:db8::9]:80")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Proxied::default()),
            (b"PROXY UNKNOWN ff:: ff:: 1 2\r\n".to_vec(), Proxied::default()),
            (v2(1, 0x11, IPV4), client("203.0.113.7:12345")),
            (v2(1, 0x21, &ipv6), client("[2001:db8::9]:80")),
            // A health check of the proxy's own; addresses there mean nothing.
            (v2(0, 0x00, b""), Proxied::default()),
            (v2(0, 0x11, IPV4), Proxied::default()),
            (v2(1, 0x00, b""), Proxied::default()),
            (v2(1, 0x31, &[b'x'; 216]), Proxied::default()),
            (v2(1, 0x11, &ssl(0x01 | 0x02, 0, b"device-7")), named.clone()),
            (v2(1, 0x11, &ssl(0x01 | 0x04, 0, b"device-7")), named),
            // Not verified, or no certificate shown.
            (v2(1, 0x11, &ssl(0x01 | 0x02, 1, b"device-7")), client("203.0.113.7:12345")),
            (v2(1, 0x11, &ssl(0x01, 0, b"device-7")), client("203.0.113.7:12345")),
        ] {
            let stream = [&header[..], b"\x10MQTT"].concat();
            let (proxied, rest) = read_off(&stream).unwrap();
            assert_eq!((proxied, &rest[..]), (expected, &b"\x10MQTT"[..]), "{header:?}");
            for cut in 0..header.len() {
                assert!(read_off(&header[..cut]).is_err(), "{cut} bytes of {header:?} are no header");
            }
        }
    }

    #[test]
    fn bad_headers_are_told() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        let name = vec![b'x'; 5000];
        for (header, expected) in [
            (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00".to_vec(), "does not begin with a PROXY"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not begin with a PROXY"),
            (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), "does not begin with a PROXY"),
            (long, "a line longer than 107 bytes"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n".to_vec(), "a bad PROXY protocol header: "),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), "a bad PROXY protocol header: "),
            (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), "a bad PROXY protocol header: "),
            (v2(1, 0x11, &IPV4[..11]), "a bad PROXY protocol header: "),
            (v2(2, 0x11, IPV4), "a bad PROXY protocol header: "),
            (v2(1, 0x12, IPV4), "came by UDP"),
            (v2(1, 0x11, &[IPV4, &[0x04, 0, 9, 0]].concat()), "a bad PROXY protocol header: "),
            (v2(1, 0x11, &[IPV4, &[0x20, 0, 1, 7]].concat()), "its field about TLS is cut"),
            (v2(1, 0x11, &ssl(0x03, 0, b"\xff\xfe")), "no UTF-8"),
            // A good name, and behind it a field that is cut.
            (
                v2(1, 0x11, &[IPV4, &[0x20, 0, 10, 3, 0, 0, 0, 0, 0x22, 0, 1, b'x', 9]].concat()),
                "a bad PROXY",
            ),
            (v2(1, 0x11, &name), "a PROXY protocol header of 5016 bytes, allowed are 4096"),
        ] {
            let error = read_off(&header).unwrap_err();
            assert!(error.contains(expected), "{header:?}: {error}");
        }
    }
}
