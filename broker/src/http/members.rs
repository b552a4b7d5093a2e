//! `/api/v1/conversations/{topic}/members/{user}`: who is a member of a conversation.
//!
//! Changing the memberships of others needs the operators' role. A user may leave by itself, and join what it may
//! read.

use axum::{
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use engine::{Answer, Question};
use tokio::sync::oneshot;

use super::{
    HttpPeer,
    access::{Access, Caller},
    ask,
    problem::problem,
};
use crate::runtime::Ask;

/// `PUT /api/v1/conversations/{topic}/members/{user}`
pub(super) async fn join(
    State(access): State<Access>,
    ConnectInfo(HttpPeer(peer)): ConnectInfo<HttpPeer>,
    Path((topic, user)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let by = match access.caller(peer, &headers).await {
        Ok(caller) if caller.is_operator() => None,
        Ok(Caller::User { user: own, principal, .. }) if *own == *user => Some(principal),
        Ok(_) => return not_yours(),
        Err(response) => return *response,
    };
    answer(&access, Question::Join { topic: topic.into(), user: user.into(), by }).await
}

/// `DELETE /api/v1/conversations/{topic}/members/{user}`
pub(super) async fn leave(
    State(access): State<Access>,
    ConnectInfo(HttpPeer(peer)): ConnectInfo<HttpPeer>,
    Path((topic, user)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    match access.caller(peer, &headers).await {
        Ok(caller) if caller.is_operator() || caller.user().is_some_and(|own| **own == *user) => {}
        Ok(_) => return not_yours(),
        Err(response) => return *response,
    }
    answer(&access, Question::Leave { topic: topic.into(), user: user.into() }).await
}

fn not_yours() -> Response {
    let detail = "changing the membership of another user needs a group of http.admin_groups";
    problem(StatusCode::FORBIDDEN, detail)
}

/// Asks the engine and makes its answer one of HTTP.
pub(super) async fn answer(access: &Access, question: Question) -> Response {
    let (sender, answer) = oneshot::channel();
    match ask(&access.ask, Ask::Engine(Box::new(question), sender), answer).await {
        Ok(Answer::Done) => StatusCode::NO_CONTENT.into_response(),
        Ok(Answer::Json(json)) => {
            ([(axum::http::header::CONTENT_TYPE, "application/json")], json).into_response()
        }
        Ok(Answer::Invalid(what)) => problem(StatusCode::BAD_REQUEST, &what),
        Ok(Answer::NotFound(what)) => problem(StatusCode::NOT_FOUND, &what),
        Ok(Answer::Forbidden(what)) => problem(StatusCode::FORBIDDEN, &what),
        Ok(Answer::Full(what)) => problem(StatusCode::INSUFFICIENT_STORAGE, &what),
        Err(what) => problem(StatusCode::SERVICE_UNAVAILABLE, what.trim_end()),
    }
}
