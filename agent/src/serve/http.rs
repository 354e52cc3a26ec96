//! One client: GET, one answer, and the connection ends. What can be asked for is in [`answer`].
//! Must not know what is listened on.
//! Always: bounded in time and in what a client may send.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Daemon;
use super::door::Offer;
use crate::flows::{Answer, Query};
use crate::metrics;
use crate::status::Snapshot;

/// From the first byte of a question to the last of its answer.
const LIMIT: Duration = Duration::from_secs(30);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// The least that hyper allows.
const BUFFER_BYTES: usize = 8192;
const HEADERS: usize = 32;

const JSON: &str = "application/json";
/// For people who look around.
const PATHS: &str = "/v1/status, /v1/flows and /metrics";

pub(super) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, offer: Offer, daemon: Daemon) {
    let answer = |request| {
        let daemon = daemon.clone();
        async move { Ok::<_, Infallible>(answer(&request, offer, &daemon).await) }
    };
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).keep_alive(false);
    builder.max_buf_size(BUFFER_BYTES).max_headers(HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Ok(Err(error)) = tokio::time::timeout(LIMIT, connection).await {
        tracing::debug!(%error, "a client");
    }
}

async fn answer(request: &Request<Incoming>, offer: Offer, daemon: &Daemon) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    let refuse = |Refusal(status, why)| error(status, &why);
    match (request.uri().path(), offer) {
        ("/metrics", _) => snapshot(daemon).await.map_or_else(refuse, |it| metrics(&it)),
        ("/v1/status", Offer::All) => snapshot(daemon).await.map_or_else(refuse, |it| json(&*it)),
        ("/v1/flows", Offer::All) => flows(request.uri().query(), daemon).await.map_or_else(refuse, |it| json(&it)),
        (path, Offer::All) => error(StatusCode::NOT_FOUND, &format!("there is no {path}; there are {PATHS}")),
        (path, Offer::Metrics) => error(StatusCode::NOT_FOUND, &format!("there is no {path}; there is /metrics")),
    }
}

fn metrics(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    response(StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(snapshot))
}

/// Why there is no answer.
struct Refusal(StatusCode, String);

async fn snapshot(daemon: &Daemon) -> Result<Arc<Snapshot>, Refusal> {
    told(daemon.snapshot().await)
}

async fn flows(query: Option<&str>, daemon: &Daemon) -> Result<Answer, Refusal> {
    let query = Query::parse(query.unwrap_or_default()).map_err(|why| Refusal(StatusCode::BAD_REQUEST, why))?;
    Ok(told(daemon.flows().await)?.answer(&query))
}

fn told<T>(told: Option<Result<T, String>>) -> Result<T, Refusal> {
    let stands = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer".to_owned());
    told.ok_or_else(stands)?.map_err(|why| Refusal(StatusCode::INTERNAL_SERVER_ERROR, why))
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(text) => response(StatusCode::OK, JSON, text),
        Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
    }
}

fn error(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    response(status, JSON, serde_json::json!({ "error": why }).to_string())
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
