//! Errors as RFC 9457 problem documents.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

/// Makes the answer of a request that failed; `detail` says what to do.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Problem { r#type: "about:blank", title, status: status.as_u16(), detail };
    let body = serde_json::to_string(&body).expect("text and numbers are JSON");
    (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
}
