//! Asks an agent over its socket: for `status` and whoever else wants to know.
//! Must not know what is in the answer.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::socket::GROUP;

/// Longer than the agent waits for its own loop.
const LIMIT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no agent answers at {}: start one with flowlogd run, or say where it is with --socket or --state-directory", .0.display())]
    Nobody(PathBuf),
    #[error("not allowed to ask the agent at {}: join the group {GROUP}, or be root", .0.display())]
    Denied(PathBuf),
    #[error("the agent at {} does not answer within {} s", .0.display(), LIMIT.as_secs())]
    Late(PathBuf),
    #[error("the agent at {} answers: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    #[error("cannot ask the agent at {}: {why}", path.display())]
    Failed { path: PathBuf, why: String },
}

/// One answer, as JSON.
pub(crate) fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let body = get_bytes(socket, path)?;
    serde_json::from_slice(&body).map_err(|error| failed(socket, format_args!("of another version? {error}")))
}

/// One answer.
pub(crate) fn get_bytes(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(socket, error))?;
    let late = |_| Err(ClientError::Late(socket.to_owned()));
    runtime.block_on(async { tokio::time::timeout(LIMIT, ask(socket, path)).await.unwrap_or_else(late) })
}

fn failed(socket: &Path, why: impl std::fmt::Display) -> ClientError {
    ClientError::Failed { path: socket.to_owned(), why: why.to_string() }
}

async fn ask(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let broken = |error: hyper::Error| failed(socket, error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the connection.
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, "flowlogd").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|error| failed(socket, error))?).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| failed(socket, error))?.to_bytes();
    if status == StatusCode::OK { Ok(body) } else { Err(refused(socket, status, &body)) }
}

fn unreachable(socket: &Path, error: &io::Error) -> ClientError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
            ClientError::Nobody(socket.to_owned())
        }
        ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => failed(socket, error),
    }
}

fn refused(socket: &Path, status: StatusCode, body: &[u8]) -> ClientError {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let said = said.and_then(|said| Some(said.get("error")?.as_str()?.to_owned()));
    ClientError::Refused { path: socket.to_owned(), why: said.unwrap_or_else(|| status.to_string()) }
}
