//! `/api/v1/bans`: lists and lifts bans, for operators and for who asks on this machine.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{ConnectInfo, Path, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{access::Access, ask, problem::problem};
use crate::{
    limits::{BanKey, BanView},
    runtime::Ask,
};

/// Who is at the other end of an HTTP connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpPeer(pub(super) SocketAddr);

/// Lets only operators through.
pub(super) async fn only_operators(
    State(access): State<Access>,
    ConnectInfo(HttpPeer(peer)): ConnectInfo<HttpPeer>,
    request: Request,
    next: Next,
) -> Response {
    match access.operator(peer, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    }
}

#[derive(Serialize)]
struct BanList {
    bans: Vec<BanView>,
}

/// `GET /api/v1/bans`
pub(super) async fn list(State(to): State<mpsc::Sender<Ask>>) -> Response {
    let (answer, bans) = oneshot::channel();
    match ask(&to, Ask::Bans(answer), bans).await {
        Ok(bans) => Json(BanList { bans }).into_response(),
        Err(what) => problem(StatusCode::SERVICE_UNAVAILABLE, what.trim_end()),
    }
}

/// `DELETE /api/v1/bans/{kind}/{key}`
pub(super) async fn lift(
    State(to): State<mpsc::Sender<Ask>>,
    Path((kind, key)): Path<(String, String)>,
) -> Response {
    let Some(ban) = BanKey::parse(&kind, &key) else {
        let kinds = BanKey::KINDS.join(", ");
        let detail = format!("{kind:?} {key:?} names no ban: kinds are {kinds}, an address is an IP address");
        return problem(StatusCode::BAD_REQUEST, &detail);
    };
    let who = ban.to_string();
    let (answer, lifted) = oneshot::channel();
    match ask(&to, Ask::LiftBan(ban, answer), lifted).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => problem(StatusCode::NOT_FOUND, &format!("{who} is not banned")),
        Err(what) => problem(StatusCode::SERVICE_UNAVAILABLE, what.trim_end()),
    }
}
