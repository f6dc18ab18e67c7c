//! `/metrics`, `/healthz`, `/readyz` and `POST /admin`, on a thread of its own: a scrape or a slow
//! reader costs the loop no more than handing over its numbers.
//!
//! Daemons have it from the shell. A program with a loop of its own, such as the LTE transport,
//! takes [`listener`] and [`start`], and answers each [`Ask`] that comes.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use super::{HttpConfig, metrics};
use crate::stats::Samples;

/// Names the descriptor of a listening socket that the starter of the daemon handed in.
pub(super) const DESCRIPTOR_VARIABLE: &str = "TESSERA_HTTP_FD";
/// A loop that does not answer for this long is not healthy.
const LOOP_PATIENCE: Duration = Duration::from_secs(5);
const ADMIN_PATIENCE: Duration = Duration::from_secs(60);

/// What a request asks the loop for.
#[derive(Debug)]
pub enum Ask {
    Samples(oneshot::Sender<Samples>),
    Ready(oneshot::Sender<Result<(), String>>),
    Admin { command: Vec<String>, reply: oneshot::Sender<String> },
}

/// Numbers that are cheaper to get beside the loop, such as the kernel's counters.
pub type MoreSamples = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// The running HTTP server; dropping it stops it.
#[derive(Debug)]
pub struct Http {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Door {
    asks: mpsc::Sender<Ask>,
    more: MoreSamples,
}

/// The listening socket that the configuration or the starter names, if any.
pub fn listener(config: &HttpConfig) -> Result<Option<TcpListener>, String> {
    let listener = match (handed_in()?, config.listen) {
        (Some(listener), _) => listener,
        (None, Some(address)) => TcpListener::bind(address)
            .map_err(|error| format!("http.listen {address}: cannot be bound: {error}"))?,
        (None, None) => return Ok(None),
    };
    listener.set_nonblocking(true).map_err(|error| format!("http: {error}"))?;
    Ok(Some(listener))
}

fn handed_in() -> Result<Option<TcpListener>, String> {
    let Ok(text) = std::env::var(DESCRIPTOR_VARIABLE) else { return Ok(None) };
    let refuse = |why: &str| format!("{DESCRIPTOR_VARIABLE}={text}: {why}");
    let descriptor: i32 = text.parse().map_err(|_| refuse("not a number"))?;
    // SAFETY: the starter gave this descriptor to this process, and nothing else here knows it.
    let listener = unsafe { TcpListener::from_raw_fd(descriptor) };
    if nix::sys::socket::getsockopt(&listener, nix::sys::socket::sockopt::AcceptConn) != Ok(true) {
        // Not ours after all: closing it could hurt.
        std::mem::forget(listener);
        return Err(refuse("not a listening socket"));
    }
    Ok(Some(listener))
}

/// Starts to serve; what is asked comes to the receiver of `asks`. The process's own CPU, memory and
/// descriptors are added to the samples.
pub fn start(
    listener: TcpListener,
    asks: mpsc::Sender<Ask>,
    more: MoreSamples,
) -> Result<Http, String> {
    let door = Arc::new(Door { asks, more });
    let routes = Router::new()
        .route("/metrics", get(exposition))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/admin", post(admin))
        .with_state(door)
        .into_make_service_with_connect_info::<SocketAddr>();
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("http: {error}"))?;
    let serve = move || {
        runtime.block_on(async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "http cannot be served"),
            };
            tokio::select! {
                result = async { axum::serve(listener, routes).await } => {
                    if let Err(error) = result {
                        tracing::error!(%error, "http ended");
                    }
                }
                _ = stopped => {}
            }
        });
    };
    let thread = std::thread::Builder::new()
        .name("http".into())
        .spawn(serve)
        .map_err(|error| format!("http: {error}"))?;
    Ok(Http { stop: Some(stop), thread: Some(thread) })
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
    }
}

impl Door {
    async fn ask<T>(
        &self,
        patience: Duration,
        make: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let answer = async {
            self.asks.send(make(sender)).await.ok()?;
            receiver.await.ok()
        };
        tokio::time::timeout(patience, answer).await.ok().flatten()
    }
}

async fn exposition(State(door): State<Arc<Door>>) -> Response {
    let Some(mut samples) = door.ask(LOOP_PATIENCE, Ask::Samples).await else {
        return unavailable("the event loop does not answer");
    };
    metrics::process(&mut samples);
    (door.more)(&mut samples);
    match metrics::encode(samples) {
        Ok(text) => ([("content-type", prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthy(State(door): State<Arc<Door>>) -> Response {
    match door.ask(LOOP_PATIENCE, Ask::Ready).await {
        Some(_) => "ok\n".into_response(),
        None => unavailable("the event loop does not answer"),
    }
}

async fn ready(State(door): State<Arc<Door>>) -> Response {
    match door.ask(LOOP_PATIENCE, Ask::Ready).await {
        Some(Ok(())) => "ready\n".into_response(),
        Some(Err(reason)) => unavailable(&reason),
        None => unavailable("the event loop does not answer"),
    }
}

/// A command as a JSON array of words, or as plain words. Only from this machine.
async fn admin(
    State(door): State<Arc<Door>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        let text = "commands are taken from this machine only\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let Some(command) = words(&body) else {
        let text = "a JSON array of strings, or words, are wanted\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    match door.ask(ADMIN_PATIENCE, |reply| Ask::Admin { command, reply }).await {
        Some(text) if text.starts_with("commands:") => {
            (StatusCode::BAD_REQUEST, text).into_response()
        }
        Some(text) => text.into_response(),
        None => unavailable("no answer"),
    }
}

fn words(body: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let words: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).ok()?
    } else {
        text.split_ascii_whitespace().map(str::to_owned).collect()
    };
    (!words.is_empty()).then_some(words)
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}
