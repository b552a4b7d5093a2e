//! The header of the PROXY protocol that a connection begins with, before anything else is read.
//!
//! The input is a header, made or mangled, with something behind it. What is taken must be what a plain reading of the
//! specification gives, not a byte more may be read, and a header that is cut is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::parsers::proxy_header;
use super::source::Source;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const TEXT_BYTES_MAX: usize = 107;
const BINARY_BYTES_MAX: usize = 4096;

pub(crate) fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let stream = match source.below(4) {
        0 => source.rest().to_vec(),
        1 => text(&mut source),
        _ => binary(&mut source),
    };
    let Ok((address, name, read)) = proxy_header(&stream) else {
        if let Some(wanted) = read_text(&stream) {
            panic!("a good header was refused: {wanted:?}");
        }
        return;
    };
    if stream.starts_with(SIGNATURE) {
        assert_eq!(read, 16 + usize::from(u16::from_be_bytes([stream[14], stream[15]])));
        assert!(read <= BINARY_BYTES_MAX);
        let by_spec = read_binary(&stream[..read]);
        assert_eq!(by_spec.as_ref().map(|(address, _)| *address), Some(address), "{:?}", &stream[..read]);
        assert_eq!(by_spec.and_then(|(_, name)| name), name, "{:?}", &stream[..read]);
    } else {
        let line = stream.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2);
        assert_eq!(line, Some(read), "one line is read");
        assert!(read <= TEXT_BYTES_MAX && name.is_none());
        if let Some(wanted) = read_text(&stream) {
            assert_eq!(address, wanted);
        }
    }
    for cut in 0..read {
        assert!(proxy_header(&stream[..cut]).is_err(), "{cut} bytes of {read} are a header");
    }
}

fn text(source: &mut Source<'_>) -> Vec<u8> {
    let mut line = String::from("PROXY ");
    while !source.is_empty() && line.len() < 200 {
        let piece = source.pick(&[
            "TCP4",
            "TCP6",
            "UNKNOWN",
            " ",
            " ",
            " ",
            "1.2.3.4",
            "255.255.255.255",
            "::1",
            "2001:db8::9",
            "0",
            "65535",
            "65536",
            "01",
            "\r\n",
            "\r",
            "\n",
            "+1",
            "TCP4 1.2.3.4 5.6.7.8 9 10",
            "TCP6 ::1 ::2 3 4",
            "x",
            "é",
        ]);
        line.push_str(piece);
    }
    line.into_bytes()
}

fn binary(source: &mut Source<'_>) -> Vec<u8> {
    let version = if source.one_in(8) { source.byte() } else { source.pick(&[0x21, 0x20]) };
    let family = if source.one_in(8) { source.byte() } else { source.pick(&[0x11, 0x21, 0x31, 0x00, 0x12]) };
    let addresses: usize = match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let mut body: Vec<u8> = (0..addresses).map(|_| source.byte()).collect();
    while !source.is_empty() && body.len() < 300 {
        match source.below(3) {
            0 => field(&mut body, source.byte(), source.bytes(10)),
            1 => {
                let mut inner = vec![source.pick(&[0x07, 0x03, 0x05, 0x01, 0])];
                inner.extend_from_slice(source.pick(&[&[0; 4][..], &[0, 0, 0, 1], &[0]]));
                field(&mut inner, source.pick(&[0x22, 0x21]), source.bytes(10));
                field(&mut body, 0x20, &inner);
            }
            _ => body.extend_from_slice(source.bytes(6)),
        }
    }
    let length = if source.one_in(8) { source.below(6000) } else { body.len() };
    [SIGNATURE, &[version, family], &(length as u16).to_be_bytes(), &body, b"MQTT"].concat()
}

fn field(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend((value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// Reads a header of version 1, as strictly as its section 2.1 is; `None` where it is none.
fn read_text(stream: &[u8]) -> Option<Option<SocketAddr>> {
    let end = stream.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&stream[..end]).ok().filter(|line| line.len() <= TEXT_BYTES_MAX - 2)?;
    let fields: Vec<_> = line.split(' ').collect();
    let ["PROXY", family, source, target, source_port, target_port] = fields[..] else {
        return (line == "PROXY UNKNOWN").then_some(None);
    };
    let is_family = |address: &IpAddr| match family {
        "TCP4" => address.is_ipv4(),
        "TCP6" => address.is_ipv6(),
        _ => false,
    };
    let port = |text: &str| {
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    let (source, target) = (source.parse().ok()?, target.parse().ok()?);
    port(target_port)?;
    let both = [source, target].iter().all(is_family);
    both.then_some(Some(SocketAddr::new(source, port(source_port)?)))
}

/// Reads a whole header of version 2: the client's address, and the name of its certificate where that was verified.
fn read_binary(header: &[u8]) -> Option<(Option<SocketAddr>, Option<String>)> {
    let body = &header[16..];
    if header[12] >> 4 != 2 || header[12] & 0x0f > 1 {
        return None;
    }
    if header[12] & 0x0f == 0 {
        return Some((None, None));
    }
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (address, fields) = match header[13] >> 4 {
        1 => {
            let ip: [u8; 4] = body.get(..4)?.try_into().ok()?;
            body.get(..12)?;
            (Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port(8))), &body[12..])
        }
        2 => {
            let ip: [u8; 16] = body.get(..16)?.try_into().ok()?;
            body.get(..36)?;
            (Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port(32))), &body[36..])
        }
        3 => (None, body.get(216..)?),
        // All that follows may be an address of a kind that nobody knows.
        _ => (None, &[][..]),
    };
    let mut name = None;
    for (kind, value) in read_fields(fields)? {
        if kind == 0x20 {
            let (&[flags, ref verified @ ..], inner) = value.split_first_chunk::<5>()?;
            let is_good = flags & 0x06 != 0 && *verified == [0; 4];
            let inner = if is_good { read_fields(inner)? } else { Vec::new() };
            let found = inner.into_iter().find(|(kind, _)| *kind == 0x22);
            name = found.and_then(|(_, value)| String::from_utf8(value.to_vec()).ok());
        }
    }
    Some((address, name))
}

fn read_fields(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        fields.push((kind, value));
        bytes = rest;
    }
    Some(fields)
}
