//! Stands between an agent and a service and makes the network or the service fail, as it is told at run time.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::http::{Headers, Request, Response};
use crate::listener::{Listener, reset};
use crate::netns::Netns;
use crate::wait_for;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Connections are refused, and those there are reset.
    Down,
    /// Before a request goes on; it goes on also when its sender has gone.
    Latency(Duration),
    /// The connection is reset when half of a request's body has come.
    ResetMidBody,
    /// The service has done what it was asked to, but half of its answer is all that comes back.
    TruncateResponse,
    /// The service answers with an error.
    Error(Refusal),
}

/// An error as S3 words it (XML), and as the other services do (JSON).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub xml: &'static str,
    pub json: &'static str,
}

impl Mode {
    pub const UNAVAILABLE: Self =
        Self::Error(Refusal { status: 503, xml: "SlowDown", json: "ServiceUnavailableException" });
    pub const INTERNAL: Self = Self::Error(Refusal { status: 500, xml: "InternalError", json: "InternalFailure" });
    pub const THROTTLED: Self =
        Self::Error(Refusal { status: 400, xml: "RequestLimitExceeded", json: "ThrottlingException" });
    pub const EXPIRED_TOKEN: Self =
        Self::Error(Refusal { status: 400, xml: "ExpiredToken", json: "ExpiredTokenException" });
    pub const CLOCK_SKEWED: Self =
        Self::Error(Refusal { status: 403, xml: "RequestTimeTooSkewed", json: "InvalidSignatureException" });
    pub const ACCESS_DENIED: Self =
        Self::Error(Refusal { status: 403, xml: "AccessDenied", json: "AccessDeniedException" });
    pub const NO_SUCH_BUCKET: Self =
        Self::Error(Refusal { status: 404, xml: "NoSuchBucket", json: "ResourceNotFoundException" });
}

impl Refusal {
    fn answer(self, request: &Request) -> Response {
        if is_json(request) {
            let body = format!("{{\"__type\":\"{0}\",\"message\":\"{0} by the test's proxy\"}}", self.json);
            let mut response = Response::new(self.status, "application/x-amz-json-1.1", body);
            response.headers.push(("x-amzn-errortype".to_owned(), self.json.to_owned()));
            return response;
        }
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{0}</Code><Message>{0} by the test's proxy\
             </Message><RequestId>0</RequestId></Error>",
            self.xml
        );
        let mut response = Response::new(self.status, "application/xml", body);
        if self.xml == "RequestTimeTooSkewed" {
            response.headers.push(("Date".to_owned(), "Tue, 01 Jan 2030 00:00:00 GMT".to_owned()));
        }
        response
    }
}

fn is_json(request: &Request) -> bool {
    request.header("x-amz-target").is_some()
}

/// `PutLogEvents`, `PutObject` …
fn operation(request: &Request) -> String {
    if let Some(target) = request.header("x-amz-target") {
        return target.rsplit('.').next().unwrap_or(target).to_owned();
    }
    let path = request.path.split('?').next().unwrap_or_default().trim_matches('/');
    let what = if path.contains('/') { "Object" } else { "Bucket" };
    let verb = match request.method.as_str() {
        "PUT" => "Put",
        "GET" => "Get",
        "HEAD" => "Head",
        "DELETE" => "Delete",
        other => other,
    };
    format!("{verb}{what}")
}

/// What came by.
#[derive(Clone, Debug)]
pub struct Seen {
    pub operation: String,
    pub path: String,
    pub headers: Headers,
    /// What became of it.
    pub mode: Mode,
    /// The service has answered with success, whatever of the answer came through.
    pub done: bool,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    /// With `n`: every n-th request.
    fault: Mutex<(Mode, u64)>,
    seen: Mutex<Vec<Seen>>,
}

/// Listens beside the service, at another port.
#[derive(Debug)]
pub struct Proxy {
    listener: Listener,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(ns: &Netns, port: u16, upstream: SocketAddr) -> Result<Self> {
        let address = SocketAddr::new(upstream.ip(), port);
        let state = Arc::new(State { upstream, fault: Mutex::new((Mode::Pass, 1)), seen: Mutex::default() });
        let serving = Arc::clone(&state);
        let listener = Listener::start(ns, address, move |stream| serving.serve(stream))?;
        Ok(Self { listener, state })
    }

    pub fn url(&self) -> String {
        self.listener.url()
    }

    pub fn set(&self, mode: Mode) -> Result<()> {
        self.set_every(1, mode)
    }

    /// Only every `n`-th request from now on meets it; others pass.
    pub fn set_every(&self, n: u64, mode: Mode) -> Result<()> {
        *self.state.fault.lock().expect("proxy") = (mode, n);
        self.listener.set_open(mode != Mode::Down)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen().clone()
    }

    /// Waits until so many requests of an operation have come, whatever becomes of them.
    pub fn wait_seen(&self, operation: &str, count: usize) -> Result<()> {
        wait_for(&format!("{operation} number {count}"), Duration::from_secs(60), || {
            let come = self.state.seen().iter().filter(|seen| seen.operation == operation).count();
            Ok((come >= count).then_some(()))
        })
    }

    /// Waits for requests that meet this mode.
    pub fn wait_met(&self, mode: Mode, count: usize) -> Result<()> {
        wait_for(&format!("{count} requests that meet {mode:?}"), Duration::from_secs(60), || {
            Ok((self.state.seen().iter().filter(|seen| seen.mode == mode).count() >= count).then_some(()))
        })
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().expect("proxy")
    }

    /// Notes the request, and says what is to become of it.
    fn note(&self, request: &Request) -> (usize, Mode) {
        let (mode, n) = *self.fault.lock().expect("proxy");
        let mut seen = self.seen();
        let number = seen.len();
        let mode = if (number as u64 + 1).is_multiple_of(n) { mode } else { Mode::Pass };
        seen.push(Seen {
            operation: operation(request),
            path: request.path.clone(),
            headers: request.headers.clone(),
            mode,
            done: false,
        });
        (number, mode)
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let (mut reader, mut writer) = (BufReader::new(stream), stream);
        while let Some(mut request) = Request::read_head(&mut reader)? {
            let (number, mode) = self.note(&request);
            if mode == Mode::ResetMidBody {
                let half = request.content_length()?.unwrap_or_default() / 2;
                io::copy(&mut reader.take(half as u64), &mut io::sink())?;
                return reset(stream);
            }
            request.read_body(&mut reader, stream)?;
            let answer = match mode {
                Mode::Error(refusal) => refusal.answer(&request),
                Mode::Latency(delay) => {
                    thread::sleep(delay);
                    self.forward(number, &request)?
                }
                _ => self.forward(number, &request)?,
            };
            let bytes = answer.bytes();
            if mode == Mode::TruncateResponse {
                return writer.write_all(&bytes[..bytes.len() / 2]);
            }
            writer.write_all(&bytes)?;
        }
        Ok(())
    }

    fn forward(&self, number: usize, request: &Request) -> io::Result<Response> {
        let response = request.send(self.upstream).map_err(io::Error::other)?;
        self.seen()[number].done = response.status < 300;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, ensure};

    use super::*;
    use crate::http;

    const SERVICE: &str = "127.0.0.1:5000";
    const PROXY: &str = "127.0.0.1:4000";
    const ANSWER: &str = "an answer of some length";

    /// A service, the proxy before it, and what the service was sent.
    fn with_proxy(test: impl FnOnce(&Netns, &Proxy, &Mutex<Vec<String>>) -> Result<()>) -> Result<()> {
        let ns = Netns::new()?;
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&bodies);
        let _service = http::serve(&ns, SERVICE.parse()?, move |request| {
            kept.lock().expect("test").push(String::from_utf8_lossy(&request.body).into_owned());
            Response::new(200, "text/plain", ANSWER)
        })?;
        let proxy = Proxy::start(&ns, 4000, SERVICE.parse()?)?;
        test(&ns, &proxy, &bodies)
    }

    fn put(ns: &Netns, body: &str) -> Result<Response> {
        ns.enter(|| Request::signed("PUT", "/bucket/key", "s3", body).send(PROXY.parse()?))
    }

    fn log(ns: &Netns) -> Result<Response> {
        let request = Request::signed("POST", "/", "logs", "{}").with("X-Amz-Target", "Logs_20140328.PutLogEvents");
        ns.enter(|| request.send(PROXY.parse()?))
    }

    #[test]
    fn passes_and_counts_by_operation() -> Result<()> {
        with_proxy(|ns, proxy, bodies| {
            ensure!(put(ns, "one")?.text() == ANSWER && log(ns)?.text() == ANSWER);
            let seen = proxy.seen();
            ensure!(seen.iter().map(|seen| seen.operation.as_str()).eq(["PutObject", "PutLogEvents"]), "{seen:?}");
            ensure!(seen.iter().all(|seen| seen.done), "{seen:?}");
            ensure!(*bodies.lock().expect("test") == ["one", "{}"]);
            Ok(())
        })
    }

    #[test]
    fn a_connection_serves_many_requests_until_it_is_down() -> Result<()> {
        with_proxy(|ns, proxy, _| {
            let stream = ns.enter(|| Ok(TcpStream::connect(PROXY)?))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut reader = BufReader::new(&stream);
            for _ in 0..2 {
                (&stream).write_all(b"PUT /bucket/key HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")?;
                let mut answer = String::new();
                while !answer.ends_with(ANSWER) {
                    let mut byte = [0];
                    reader.read_exact(&mut byte)?;
                    answer.push(char::from(byte[0]));
                }
            }
            proxy.set(Mode::Down)?;
            let end = reader.read(&mut [0]);
            ensure!(matches!(end, Ok(0) | Err(_)), "{end:?}");
            ensure!(put(ns, "x").is_err());
            proxy.set(Mode::Pass)?;
            ensure!(put(ns, "x")?.status == 200);
            Ok(())
        })
    }

    #[test]
    fn errors_are_worded_as_the_service_does() -> Result<()> {
        with_proxy(|ns, proxy, bodies| {
            proxy.set(Mode::UNAVAILABLE)?;
            let (object, event) = (put(ns, "x")?, log(ns)?);
            ensure!(object.status == 503 && object.text().contains("<Code>SlowDown</Code>"), "{object:?}");
            ensure!(event.header("x-amzn-errortype") == Some("ServiceUnavailableException"), "{event:?}");
            proxy.set(Mode::EXPIRED_TOKEN)?;
            ensure!(log(ns)?.text().contains("\"__type\":\"ExpiredTokenException\""));
            ensure!(bodies.lock().expect("test").is_empty(), "a refused request went on");
            proxy.wait_met(Mode::UNAVAILABLE, 2)
        })
    }

    #[test]
    fn a_reset_in_the_body_keeps_it_from_the_service() -> Result<()> {
        with_proxy(|ns, proxy, bodies| {
            proxy.set(Mode::ResetMidBody)?;
            let error = put(ns, &"x".repeat(1 << 22)).err().context("the connection was not reset")?;
            ensure!(error.downcast_ref::<io::Error>().is_some(), "{error:?}");
            ensure!(bodies.lock().expect("test").is_empty());
            Ok(())
        })
    }

    #[test]
    fn a_cut_answer_is_of_a_request_that_was_done() -> Result<()> {
        with_proxy(|ns, proxy, bodies| {
            proxy.set(Mode::TruncateResponse)?;
            ensure!(put(ns, "x").is_err());
            ensure!(*bodies.lock().expect("test") == ["x"] && proxy.seen()[0].done);
            Ok(())
        })
    }

    #[test]
    fn every_third_request() -> Result<()> {
        with_proxy(|ns, proxy, _| {
            proxy.set_every(3, Mode::THROTTLED)?;
            let statuses: Vec<u16> = (0..6).map(|_| Ok(put(ns, "x")?.status)).collect::<Result<_>>()?;
            ensure!(statuses == [200, 200, 400, 200, 200, 400], "{statuses:?}");
            Ok(())
        })
    }

    #[test]
    fn delayed_requests_go_on_when_their_sender_has_gone() -> Result<()> {
        with_proxy(|ns, proxy, bodies| {
            proxy.set(Mode::Latency(Duration::from_millis(300)))?;
            let stream = ns.enter(|| Ok(TcpStream::connect(PROXY)?))?;
            (&stream).write_all(b"PUT /bucket/key HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")?;
            proxy.wait_seen("PutObject", 1)?;
            ensure!(bodies.lock().expect("test").is_empty(), "it was not delayed");
            drop(stream);
            wait_for("the request", Duration::from_secs(5), || {
                Ok((*bodies.lock().expect("test") == ["abc"]).then_some(()))
            })
        })
    }
}
