use super::*;
use client::ClientError;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::capture::flow::Drained;
use crate::exclude;
use crate::flows::About;
use crate::pipeline::Pipeline;

/// A server and its socket; a thread that answers as the daemon does, until the test ends.
struct Agent {
    directory: tempfile::TempDir,
    server: Option<Server>,
    daemon: Option<JoinHandle<usize>>,
}

impl Agent {
    fn new() -> Self {
        let mut agent = Self::deaf();
        let (server, asks) = Server::start(Places { socket: Some(agent.path()), ..Places::default() }).unwrap();
        agent.server = Some(server);
        agent.daemon = Some(thread::spawn(move || {
            let mut answered = 0;
            // Ends when all who could ask are gone.
            while let Ok(Ask::Status(answer)) = asks.asked.recv() {
                answered += usize::from(answer.send(Ok(Arc::new(Snapshot::default()))).is_ok());
            }
            answered
        }));
        agent
    }

    /// Nobody answers.
    fn deaf() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: None, daemon: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn end(mut self) -> usize {
        self.server.take();
        assert!(!self.path().exists());
        self.daemon.take().unwrap().join().unwrap()
    }
}

/// What is answered to these bytes.
fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Reset behind its answer, where the server has not read to the end.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_question_and_its_answer() {
    let agent = Agent::new();
    assert_eq!(client::get::<Snapshot>(&agent.path(), "/v1/status").unwrap(), Snapshot::default());
    assert_eq!(agent.end(), 1);
}

#[test]
fn what_cannot_be_asked() {
    let agent = Agent::new();
    let refused = client::get_bytes(&agent.path(), "/v2").unwrap_err();
    assert!(
        refused.to_string().ends_with("answers: there is no /v2; there are /v1/status, /v1/flows and /metrics"),
        "{refused}"
    );
    let answer = raw(&agent.path(), b"POST /v1/status HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET"), "{answer}");
    let answer = raw(&agent.path(), b"\x16\x03\x01 what\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let long = format!("GET /v1/status HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 14));
    assert!(raw(&agent.path(), long.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert_eq!(agent.end(), 0);
}

#[test]
fn a_stuck_client_holds_up_nobody() {
    let agent = Agent::new();
    let mut stuck: Vec<UnixStream> =
        (1..door::CONNECTIONS).map(|_| UnixStream::connect(agent.path()).unwrap()).collect();
    stuck.iter_mut().for_each(|stream| stream.write_all(b"GET /v1/status HT").unwrap());
    client::get::<Snapshot>(&agent.path(), "/v1/status").unwrap();
    assert_eq!(agent.end(), 1);
}

#[test]
fn a_loop_that_stands_is_told_of() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (daemon, asks) = Daemon::new(1, Duration::from_millis(1)).unwrap();
    // Nobody takes it; then there is no room for another, and no wait either.
    assert!(runtime.block_on(daemon.snapshot()).is_none());
    let slow = Daemon { patience: Duration::from_secs(3600), ..daemon };
    let start = Instant::now();
    assert!(runtime.block_on(slow.snapshot()).is_none());
    assert!(start.elapsed() < Duration::from_secs(60));
    drop(asks);
}

#[test]
fn nobody_is_there() {
    let agent = Agent::deaf();
    let nobody = |path: &Path| matches!(client::get_bytes(path, "/v1/status"), Err(ClientError::Nobody(_)));
    assert!(nobody(&agent.path()));
    drop(std::os::unix::net::UnixListener::bind(agent.path()).unwrap());
    assert!(nobody(&agent.path()));
    assert!(nobody(&agent.directory.path().join("missing/s")));
}

#[test]
fn a_bad_query_is_one_line_and_no_look() {
    let agent = Agent::new();
    let refused = client::get_bytes(&agent.path(), "/v1/flows?port=x").unwrap_err().to_string();
    assert!(refused.ends_with(r#"answers: "x" is not a port, 0 to 65535"#), "{refused}");
    let answer = raw(&agent.path(), b"GET /v1/flows?limit=0 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(agent.end(), 0);
}

/// Time passes only when it is told to.
#[test]
fn all_who_ask_within_a_second_share_a_look() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (daemon, asks) = Daemon::new(ASKS, PATIENCE).unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        tokio::spawn(async move {
            loop {
                if let Ok(Ask::Flows(answer)) = asks.asked.try_recv() {
                    count.fetch_add(1, Ordering::Relaxed);
                    let pipeline = Pipeline::new(exclude::Settings::new(&[], &[], &[]).unwrap(), Vec::new());
                    let open = pipeline.open(Drained::default(), &BTreeMap::new());
                    let _ = answer.send(Ok(Box::new((About::default(), open))));
                }
                // Never idle: or time would pass by itself.
                tokio::task::yield_now().await;
            }
        });
        let looks = || answered.load(Ordering::Relaxed);
        let look = async || daemon.flows().await.unwrap().unwrap();
        let (one, other) = tokio::join!(look(), look());
        assert!(Arc::ptr_eq(&one, &other) && looks() == 1);
        tokio::time::advance(flows::EVERY).await;
        // Nobody asks: nothing is kept.
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&one), 2);
        let another = look().await;
        assert!(!Arc::ptr_eq(&one, &another) && looks() == 2);
        tokio::time::advance(flows::EVERY).await;
        // Who asks and goes away does not make it look more often.
        assert!(look().now_or_never().is_none() && looks() == 2);
        tokio::task::yield_now().await;
        assert!(look().now_or_never().is_none() && looks() == 3);
        tokio::task::yield_now().await;
        assert_eq!(looks(), 3);
        tokio::time::advance(flows::EVERY).await;
        look().await;
        assert_eq!(looks(), 4);
    });
}
