//! `GET /api/v1/inbox`: a user's conversations with what is unread, a page at a time.

use axum::{
    extract::{ConnectInfo, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use engine::Question;
use protocol::{ByteString, im::INBOX_ENTRIES_MAX};

use super::{
    HttpPeer,
    access::{Access, Caller},
    members::answer,
    problem::problem,
    query::Query,
};

/// `GET /api/v1/inbox?cursor=&limit=`; operators name the user with `user=`.
pub(super) async fn page(
    State(access): State<Access>,
    ConnectInfo(HttpPeer(peer)): ConnectInfo<HttpPeer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let caller = match access.caller(peer, &headers).await {
        Ok(caller) => caller,
        Err(response) => return *response,
    };
    let query = match Query::parse(query.as_deref().unwrap_or_default(), &["cursor", "limit", "user"]) {
        Ok(query) => query,
        Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
    };
    let named = query.get("user").map(ByteString::from);
    // Who asks for its own sees what it may read, an operator who asks for another's all of it.
    let (user, by) = match (named, caller) {
        (named, Caller::User { user, principal, .. })
            if named.as_ref().is_none_or(|named| *named == user) =>
        {
            (user, Some(principal))
        }
        (Some(named), caller) if caller.is_operator() => (named, None),
        (Some(_), _) => {
            let detail = "the inbox of another user needs a group of http.admin_groups";
            return problem(StatusCode::FORBIDDEN, detail);
        }
        (None, _) => return problem(StatusCode::BAD_REQUEST, "say whose inbox: ?user=NAME"),
    };
    let limit = match query.get("limit").map(str::parse) {
        None => INBOX_ENTRIES_MAX,
        Some(Ok(limit)) if (1..=INBOX_ENTRIES_MAX).contains(&limit) => limit,
        Some(_) => {
            let detail = format!("limit is not a number of 1 to {INBOX_ENTRIES_MAX}");
            return problem(StatusCode::BAD_REQUEST, &detail);
        }
    };
    let cursor = query.get("cursor").filter(|cursor| !cursor.is_empty()).map(ByteString::from);
    answer(&access, Question::Inbox { user, by, cursor, limit }).await
}
