//! A TCP connection with TLS, WebSocket or both on top: bytes of MQTT in and out.
//!
//! Sockets are read into memory of the caller and written from the connection's own buffer. Between two calls only
//! what is incomplete is held: a piece of a TLS record, records that the socket did not take (at most
//! [`UNSENT_BYTES_MAX`]), a frame's header. Nothing here waits, but for the handshake: who gets less than it wanted waits
//! for readiness itself, the door's thread by tokio and the shard's by its own loop.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    os::fd::AsFd,
};

use bytes::{Buf, BytesMut};
use rustls::ServerConnection;

use super::frame::Frames;

/// Bytes read from a socket at once when they are TLS records. What they decrypt to, with a record that was cut
/// before, is less than [`PLAIN_BYTES_MIN`].
pub(crate) const CIPHER_BYTES: usize = 40 * 1024;

/// The least memory to decrypt into: what was read, and the longest record (RFC 8446: 16 KB, and a bit).
pub(crate) const PLAIN_BYTES_MIN: usize = plain_bytes_min(CIPHER_BYTES);

/// Returns the memory needed to decrypt so many bytes into.
pub(crate) const fn plain_bytes_min(cipher_bytes: usize) -> usize {
    cipher_bytes + 18 * 1024
}

/// Encrypted bytes that wait for the socket; more stay in the connection's buffer.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// Reads that bring no payload (pings, parts of records) before others have their turn.
const EMPTY_READS_MAX: usize = 8;

/// The layers over a socket.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) tls: Option<Box<ServerConnection>>,
    pub(crate) frames: Option<Box<Frames>>,
    /// What was read with the handshake and belongs after it.
    pub(crate) early: BytesMut,
}

impl Layers {
    /// Says whether the bytes of the socket are the bytes of MQTT.
    pub(crate) fn are_none(&self) -> bool {
        self.tls.is_none() && self.frames.is_none() && self.early.is_empty()
    }
}

/// A TCP socket that never blocks.
pub(crate) trait Stream: AsFd {
    /// Reads what there is; `WouldBlock` if that is nothing.
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes what the socket takes; `WouldBlock` if that is nothing.
    fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl Stream for tokio::net::TcpStream {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        Self::try_read(self, into)
    }

    fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::try_write_vectored(self, bytes)
    }
}

impl Stream for mio::net::TcpStream {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut &*self, into)
    }

    fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        Write::write_vectored(&mut &*self, bytes)
    }
}

/// A connection whose bytes are not the socket's.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    layers: Layers,
    /// Nothing more comes from the socket, or it failed.
    is_socket_ended: bool,
    /// [`Wire::end`] was called.
    is_ending: bool,
    is_close_notified: bool,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    /// Bytes of MQTT.
    pub(crate) bytes: usize,
    /// Whether there may be more at once; if not, readiness comes before there is.
    pub(crate) has_more: bool,
    /// Nothing comes any more.
    pub(crate) is_end: bool,
}

impl Got {
    /// Nothing, now.
    const NOTHING: Self = Self { bytes: 0, has_more: false, is_end: false };

    const END: Self = Self { bytes: 0, has_more: false, is_end: true };

    /// What reading a socket once into memory of this size brought: less than the memory takes is all there was.
    pub(crate) fn of(read: io::Result<usize>, memory: usize) -> io::Result<Self> {
        match read {
            Ok(0) => Ok(Self::END),
            Ok(bytes) => Ok(Self { bytes, has_more: bytes == memory, is_end: false }),
            Err(error) if is_would_block(&error) => Ok(Self::NOTHING),
            Err(error) => Err(error),
        }
    }
}

/// A socket as rustls wants it; what would block is an error.
struct Socket<'a, S>(&'a S);

impl<S: Stream> Read for Socket<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl<S: Stream> Write for Socket<'_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: Stream> Wire<S> {
    pub(crate) fn new(stream: S, mut layers: Layers) -> Self {
        if let Some(tls) = &mut layers.tls {
            tls.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        }
        Self { stream, layers, is_socket_ended: false, is_ending: false, is_close_notified: false }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(crate) fn tls(&self) -> Option<&ServerConnection> {
        self.layers.tls.as_deref()
    }

    /// Takes it apart, to go on on another thread.
    pub(crate) fn into_parts(self) -> (S, Layers) {
        (self.stream, self.layers)
    }

    /// Puts WebSocket frames on top, after their handshake.
    pub(crate) fn with_frames(mut self, frames: Frames, early: BytesMut) -> Self {
        self.layers.frames = Some(Box::new(frames));
        self.layers.early = early;
        self
    }

    /// Reads what there is, into `plain`; `cipher` is memory for what is encrypted.
    pub(crate) fn try_read(&mut self, cipher: &mut [u8], plain: &mut [u8]) -> io::Result<Got> {
        for _ in 0..EMPTY_READS_MAX {
            if self.layers.frames.as_ref().is_some_and(|frames| frames.is_ended()) {
                return Ok(Got::END);
            }
            let got = self.try_read_below(cipher, plain)?;
            let Some(frames) = self.layers.frames.as_mut().filter(|_| got.bytes > 0) else { return Ok(got) };
            let bytes = frames.read(&mut plain[..got.bytes]).map_err(invalid)?;
            // The end of the frames may have come with them.
            let has_more = got.has_more || frames.is_ended();
            if bytes > 0 || !has_more {
                return Ok(Got { bytes, has_more, is_end: false });
            }
        }
        Ok(Got { has_more: true, ..Got::NOTHING })
    }

    /// Reads below the frames.
    fn try_read_below(&mut self, cipher: &mut [u8], plain: &mut [u8]) -> io::Result<Got> {
        if !self.layers.early.is_empty() {
            let early = &mut self.layers.early;
            let bytes = early.len().min(plain.len());
            plain[..bytes].copy_from_slice(&early[..bytes]);
            early.advance(bytes);
            return Ok(Got { bytes, has_more: true, is_end: false });
        }
        let Some(tls) = &mut self.layers.tls else { return self.try_read_socket(plain) };
        // What came with the handshake.
        let (bytes, is_closed) = read_plain(tls, plain)?;
        if bytes > 0 || is_closed {
            return Ok(Got { bytes, has_more: bytes > 0, is_end: bytes == 0 });
        }
        let got = self.try_read_socket(cipher)?;
        let Some(tls) = self.layers.tls.as_mut().filter(|_| got.bytes > 0) else { return Ok(got) };
        let (bytes, is_closed) = decrypt(tls, &cipher[..got.bytes], plain)?;
        Ok(Got { bytes, has_more: got.has_more || is_closed, is_end: false })
    }

    fn try_read_socket(&mut self, into: &mut [u8]) -> io::Result<Got> {
        let got = Got::of(self.stream.try_read(into), into.len());
        self.is_socket_ended |= got.as_ref().map_or(true, |got| got.is_end);
        got
    }

    /// Throws away what comes, after the end.
    pub(crate) fn try_discard(&mut self, into: &mut [u8]) -> io::Result<Got> {
        self.try_read_socket(into)
    }

    /// Says whether something is to be sent beside what the caller has.
    pub(crate) fn wants_write(&self) -> bool {
        let Layers { tls, frames, .. } = &self.layers;
        tls.as_ref().is_some_and(|tls| tls.wants_write() || (self.is_ending && !self.is_close_notified))
            || frames.as_ref().is_some_and(|frames| frames.wants_write())
    }

    /// Sends what there is, as one frame and in one write if the socket takes it, and takes what went out off `out`;
    /// says how much.
    pub(crate) fn try_send(&mut self, out: &mut BytesMut) -> io::Result<usize> {
        let before = out.len();
        while self.flush_records()? {
            let Layers { tls, frames, .. } = &mut self.layers;
            let (head, body) = match frames {
                Some(frames) => frames.next_out(out.len()),
                None => (&[][..], out.len()),
            };
            let whole = head.len() + body;
            if whole == 0 {
                match tls {
                    Some(tls) if self.is_ending && !self.is_close_notified => {
                        self.is_close_notified = true;
                        tls.send_close_notify();
                        continue;
                    }
                    _ => break,
                }
            }
            let slices = [IoSlice::new(head), IoSlice::new(&out[..body])];
            let written = match tls {
                Some(tls) => tls.writer().write_vectored(&slices)?,
                None => match self.stream.try_write_vectored(&slices) {
                    Err(error) if is_would_block(&error) => break,
                    written => written?,
                },
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            out.advance(frames.as_mut().map_or(written, |frames| frames.sent(written)));
            if tls.is_none() && written < whole {
                // The socket is full.
                break;
            }
        }
        Ok(before - out.len())
    }

    /// Sends encrypted records; says whether all went out.
    fn flush_records(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.layers.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut Socket(&self.stream)) {
                Ok(_) => {}
                Err(error) if is_would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says how much it may hold of what the socket did not take.
    pub(crate) fn unsent_bytes_max(&self) -> usize {
        if self.layers.tls.is_some() { UNSENT_BYTES_MAX } else { 0 }
    }

    /// Says goodbye in each layer, after what is there to be sent.
    pub(crate) fn end(&mut self) {
        self.is_ending = true;
        if let Some(frames) = &mut self.layers.frames {
            frames.end();
        }
    }

    /// Says whether the socket can still carry a goodbye.
    pub(crate) fn can_end(&self) -> bool {
        !self.is_socket_ended
    }

    /// Closes our half of the socket.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).shutdown(Shutdown::Write)
    }
}

impl Wire<tokio::net::TcpStream> {
    /// Does the TLS handshake; the records after it stay in the session.
    ///
    /// # Errors
    /// The socket ended, or the client and this end do not agree; it has been told why.
    pub(crate) async fn handshake(&mut self) -> io::Result<()> {
        let Self { stream, layers: Layers { tls: Some(tls), .. }, .. } = self else { return Ok(()) };
        loop {
            while tls.wants_write() {
                stream.writable().await?;
                match tls.write_tls(&mut Socket(stream)) {
                    Err(error) if !is_would_block(&error) => return Err(error),
                    _ => {}
                }
            }
            if !tls.is_handshaking() {
                return Ok(());
            }
            stream.readable().await?;
            match tls.read_tls(&mut Socket(stream)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_would_block(&error) => continue,
                Err(error) => return Err(error),
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert says why; the client may be gone.
                let _ = tls.write_tls(&mut Socket(stream));
                return Err(invalid(error));
            }
        }
    }
}

/// Takes what is decrypted; says also whether the client has closed.
fn read_plain(tls: &mut ServerConnection, plain: &mut [u8]) -> io::Result<(usize, bool)> {
    match tls.reader().read(plain) {
        Ok(0) => Ok((0, true)),
        Ok(bytes) => Ok((bytes, false)),
        Err(error) if is_would_block(&error) => Ok((0, false)),
        Err(error) => Err(error),
    }
}

/// Decrypts all of `cipher`; returns how much came out, and whether the client has closed.
fn decrypt(tls: &mut ServerConnection, mut cipher: &[u8], plain: &mut [u8]) -> io::Result<(usize, bool)> {
    let (mut bytes, mut is_closed) = (0, false);
    while !cipher.is_empty() {
        if tls.read_tls(&mut cipher)? == 0 {
            break;
        }
        tls.process_new_packets().map_err(invalid)?;
        loop {
            let (more, is_closed_now) = read_plain(tls, &mut plain[bytes..])?;
            if more == 0 {
                is_closed |= is_closed_now;
                break;
            }
            bytes += more;
        }
    }
    Ok((bytes, is_closed))
}
