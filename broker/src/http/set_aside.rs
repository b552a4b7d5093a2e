//! `/api/v1/clients/{client}/set-aside`: messages that ended a client's connections, for operators.

use axum::{
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use engine::Question;

use super::{HttpPeer, access::Access, members::answer, problem::problem};

/// `GET /api/v1/clients/{client}/set-aside`
pub(super) async fn list(
    State(access): State<Access>,
    ConnectInfo(peer): ConnectInfo<HttpPeer>,
    Path(client): Path<String>,
    headers: HeaderMap,
) -> Response {
    ask(&access, peer, &headers, Question::SetAside { client: client.into() }).await
}

/// `POST /api/v1/clients/{client}/set-aside/{message}/replay`
pub(super) async fn replay(
    State(access): State<Access>,
    ConnectInfo(peer): ConnectInfo<HttpPeer>,
    Path((client, message)): Path<(String, u64)>,
    headers: HeaderMap,
) -> Response {
    ask(&access, peer, &headers, Question::Replay { client: client.into(), message }).await
}

/// `DELETE /api/v1/clients/{client}/set-aside/{message}`
pub(super) async fn forget(
    State(access): State<Access>,
    ConnectInfo(peer): ConnectInfo<HttpPeer>,
    Path((client, message)): Path<(String, u64)>,
    headers: HeaderMap,
) -> Response {
    ask(&access, peer, &headers, Question::Drop { client: client.into(), message }).await
}

async fn ask(access: &Access, HttpPeer(peer): HttpPeer, headers: &HeaderMap, question: Question) -> Response {
    match access.caller(peer, headers).await {
        Ok(caller) if caller.is_operator() => answer(access, question).await,
        Ok(_) => {
            let detail = "what was set aside at clients needs a group of http.admin_groups";
            problem(StatusCode::FORBIDDEN, detail)
        }
        Err(response) => *response,
    }
}
