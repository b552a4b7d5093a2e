//! `/mqtt`: MQTT over WebSocket on the HTTP port. The upgraded socket leaves this thread for the shard's.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, Version},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::{HttpPeer, connections::Idle};
use crate::{
    Config,
    listener::{Arrival, Frames, HandshakeLimits, Layers, Listener, Refusal, UpgradeRequest},
    peer::{Peer, PeerAddr},
};

/// What the handler knows.
#[derive(Debug)]
pub(super) struct WebSocketEntry {
    listener: Arc<Listener>,
    message_bytes_max: u64,
    arrivals: mpsc::Sender<Arrival>,
}

impl WebSocketEntry {
    pub(super) fn new(config: &Config, address: SocketAddr, arrivals: mpsc::Sender<Arrival>) -> Self {
        Self {
            listener: Arc::new(Listener::of_http(config, address)),
            message_bytes_max: HandshakeLimits::new(&config.mqtt).message_bytes_max,
            arrivals,
        }
    }
}

/// `GET /mqtt`
pub(super) async fn open(
    State(entry): State<Arc<WebSocketEntry>>,
    ConnectInfo(HttpPeer(address)): ConnectInfo<HttpPeer>,
    mut request: Request,
) -> Response {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value)));
    let judged = UpgradeRequest {
        method: request.method().as_str().to_owned(),
        target: request.uri().path().to_owned(),
        minor_version: u8::from(request.version() != Version::HTTP_10),
        headers: headers.collect(),
    };
    let accepted = match judged.judge(&entry.listener.web_rules()) {
        Ok(accepted) => accepted,
        Err(refusal) => return answer(refusal),
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return (StatusCode::UPGRADE_REQUIRED, "a WebSocket needs HTTP/1.1\n").into_response();
    };
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    for (name, value) in accepted.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("the names are our own");
        let value = HeaderValue::from_str(value).expect("base64 and our own words are header values");
        response.headers_mut().insert(name, value);
    }
    tokio::spawn(hand_over(entry, upgrade, address));
    response
}

fn answer(refusal: Refusal) -> Response {
    let Refusal { status, header, what, .. } = refusal;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = (status, format!("{what}\n")).into_response();
    if let Some((name, value)) = header
        && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Waits until the answer is sent, takes the socket back from HTTP, and gives it to the shard.
async fn hand_over(entry: Arc<WebSocketEntry>, upgrade: OnUpgrade, address: SocketAddr) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(peer = %address, %error, "no websocket after all"),
    };
    let parts = match upgraded.downcast::<TokioIo<Idle>>() {
        Ok(parts) => parts,
        Err(_) => return tracing::error!("a bug: the upgraded connection is of another type"),
    };
    let stream = match parts.io.into_inner().into_stream().into_std() {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(peer = %address, %error, "the websocket was gone at once"),
    };
    let layers = Layers {
        tls: None,
        frames: Some(Box::new(Frames::new(entry.message_bytes_max))),
        early: BytesMut::from(&parts.read_buf[..]),
    };
    let peer =
        Peer { address: PeerAddr::Ip(address), listener: Arc::clone(&entry.listener), certificate: None };
    if entry.arrivals.try_send(Arrival { stream, layers, peer, seat: None }).is_err() {
        tracing::debug!(peer = %address, "websocket closed: too many wait for the shard, or it ended");
    }
}
