//! HTTP on a thread of its own, so that no scrape waits for the shard or makes it wait.
//!
//! `/healthz` says that the process lives, `/readyz` that the shard answers and takes messages,
//! `/metrics` its numbers, `/api/v1/bans` who is kept out, `/api/v1/conversations` who is a member of which,
//! `/api/v1/inbox` what a user has not read, `/api/v1/clients/{client}/set-aside` what ended a client's connections.

mod access;
mod bans;
mod connections;
mod inbox;
mod members;
mod problem;
mod query;
mod set_aside;
mod web_socket;

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, delete, get, post, put},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use self::{access::Access, bans::HttpPeer, problem::problem, web_socket::WebSocketEntry};
use crate::{
    Config, StartError,
    auth::Auth,
    bind::{BindError, Bound, bind},
    listener::Arrival,
    metrics,
    runtime::{Ask, Snapshot},
};

/// The shard has this long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// HTTP that is served.
#[derive(Debug)]
pub(crate) struct HttpServer {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// Binds the HTTP address; a default one that is taken is given up, a configured one is an error.
pub(crate) fn bind_optional(config: &Config) -> Result<Option<Bound>, BindError> {
    if !config.http.enabled {
        return Ok(None);
    }
    match bind(&config.http.listen, "--http HOST:PORT") {
        Ok(bound) => Ok(Some(bound)),
        Err(error @ BindError::InUse { .. }) if config.http_is_optional => {
            tracing::warn!(%error, "going on without http");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl HttpServer {
    /// Serves on `bound`, asking the shard through `ask`.
    pub(crate) fn start(
        bound: Bound,
        ask: mpsc::Sender<Ask>,
        auth: Auth,
        config: &Config,
        web: Option<mpsc::Sender<Arrival>>,
    ) -> Result<Self, StartError> {
        let addr = bound.local_addr()?;
        let web = web.map(|arrivals| WebSocketEntry::new(config, addr, arrivals));
        let access = Access::new(config, auth, ask);
        let listener = bound.listen()?;
        let head_max = Duration::from_secs(config.mqtt.handshake_timeout_s.into());
        let executor =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || executor.block_on(serve(listener, access, web, head_max, stopped)))
            .map_err(StartError::Thread)?;
        Ok(Self { addr, stop, thread })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it; open requests are cut.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // A panic there has been printed, and nothing depends on it.
        let _ = self.thread.join();
    }
}

async fn serve(
    listener: std::net::TcpListener,
    access: Access,
    web: Option<WebSocketEntry>,
    head_max: Duration,
    stopped: oneshot::Receiver<()>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "http cannot be served"),
    };
    let bans = Router::new()
        .route("/", get(bans::list))
        .route("/{kind}/{key}", delete(bans::lift))
        .layer(middleware::from_fn_with_state(access.clone(), bans::only_operators));
    let ask = access.ask.clone();
    let of_users = Router::new()
        .route("/conversations/{topic}/members/{user}", put(members::join).delete(members::leave))
        .route("/inbox", get(inbox::page))
        .route("/clients/{client}/set-aside", get(set_aside::list))
        .route("/clients/{client}/set-aside/{message}", delete(set_aside::forget))
        .route("/clients/{client}/set-aside/{message}/replay", post(set_aside::replay))
        .with_state(access);
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .nest("/api/v1/bans", bans)
        .with_state(ask)
        .nest("/api/v1", of_users)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    let app = match web {
        Some(web) => app.route("/mqtt", any(web_socket::open).with_state(Arc::new(web))),
        None => app,
    };
    tokio::select! {
        () = connections::serve(listener, app, head_max) => {}
        _ = stopped => {}
    }
}

async fn not_found(uri: Uri) -> Response {
    problem(StatusCode::NOT_FOUND, &format!("nothing is served at {:?}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} is not served at {:?}; the header Allow names what is", uri.path());
    problem(StatusCode::METHOD_NOT_ALLOWED, &detail)
}

async fn snapshot(to: &mpsc::Sender<Ask>) -> Result<Snapshot, &'static str> {
    let (answer, snapshot) = oneshot::channel();
    ask(to, Ask::Snapshot(answer), snapshot).await
}

/// Asks the shard and waits for the answer, not for ever.
async fn ask<T>(to: &mpsc::Sender<Ask>, ask: Ask, answer: oneshot::Receiver<T>) -> Result<T, &'static str> {
    to.try_send(ask).map_err(|_| "the broker does not answer: too many requests wait, or it ended\n")?;
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err("the broker ended\n"),
        Err(_) => Err("the broker does not answer in time\n"),
    }
}

async fn readyz(State(ask): State<mpsc::Sender<Ask>>) -> Response {
    let what = match snapshot(&ask).await {
        Ok(snapshot) if snapshot.stopping => "shutting down\n",
        Ok(snapshot) if snapshot.store_full => "the store is full\n",
        Ok(snapshot) if snapshot.view.is_failed => "the store gives no space back, the log says why\n",
        Ok(_) => return "ready\n".into_response(),
        Err(what) => what,
    };
    (StatusCode::SERVICE_UNAVAILABLE, what).into_response()
}

async fn metrics_text(State(ask): State<mpsc::Sender<Ask>>) -> Response {
    match snapshot(&ask).await {
        Ok(snapshot) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&snapshot)).into_response(),
        Err(what) => (StatusCode::SERVICE_UNAVAILABLE, what).into_response(),
    }
}
