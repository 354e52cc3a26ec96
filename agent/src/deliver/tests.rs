//! The worker against a destination that does as it is told, in time that passes by itself when nothing is done; and
//! the thread against a real directory.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use tokio::time::Instant as Virtual;
use tokio::time::sleep;

use super::destination::Sink;
use super::status::{State, Status};
use super::*;
use crate::flow_log::{Destination, Fields, Layout, Retention, TrafficType};
use crate::format::Format;
use crate::select::Selection;
use crate::sink::{Outcome, Step};
use crate::spool::Window;

/// What the destination does, at the attempt of this number and time.
pub(super) enum Act {
    /// Takes the oldest segment, if there is one.
    Take,
    Idle,
    Retry(&'static str),
    Refuse(&'static str),
    Fatal,
    /// Never answers.
    Hang,
}

pub(super) struct Script {
    act: Box<dyn FnMut(usize) -> Act + Send>,
    attempts: Attempts,
}

/// When, and whether all was asked for.
type Attempts = Arc<Mutex<Vec<(Virtual, bool)>>>;

impl Script {
    pub(super) async fn deliver(&mut self, spool: &Spool, all: bool) -> Result<Step, Outcome> {
        let number = {
            let mut attempts = self.attempts.lock().unwrap();
            attempts.push((Virtual::now(), all));
            attempts.len()
        };
        let fault = |code| Fault::new(code, "words");
        match (self.act)(number) {
            Act::Take => match spool.segments().first() {
                None => Ok(Step::Idle { due: None }),
                Some(segment) => {
                    spool.remove(segment.id)?;
                    Ok(Step::Progress)
                }
            },
            Act::Idle => Ok(Step::Idle { due: None }),
            Act::Retry(code) => Err(Outcome::Retry(fault(code))),
            Act::Refuse(code) => Err(Outcome::Refuse(fault(code))),
            Act::Fatal => Err(Outcome::Fatal(fault("stdout"))),
            Act::Hang => pending().await,
        }
    }
}

fn log(destination: Destination) -> FlowLog {
    FlowLog {
        id: "fl-1".to_owned(),
        selection: Selection::default(),
        traffic_type: TrafficType::All,
        interval: 60,
        format: Format::default(),
        destination,
        tags: BTreeMap::new(),
        fields: Fields::default(),
        spool_bytes_max: u64::MAX,
    }
}

fn identity() -> Identity {
    Identity::new(None, None).unwrap()
}

fn append(spool: &Spool, number: u64) {
    let mut writer = spool.begin(Window { start: 0, end: 59, number }).unwrap();
    writer.block("0", 1, b"a line\n").unwrap();
    writer.finish().unwrap();
}

/// What is logged in this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn of_level(&self, level: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(level)).map(str::to_owned).collect()
    }
}

struct Scene {
    orders: watch::Sender<Orders>,
    attempts: Attempts,
    fatal: Arc<OnceLock<Fault>>,
    spool: Arc<Spool>,
    directory: tempfile::TempDir,
    lines: Lines,
    start: Virtual,
    _logged: tracing::subscriber::DefaultGuard,
}

/// With one segment.
fn scene(act: impl FnMut(usize) -> Act + Send + 'static) -> (Scene, Worker) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let directory = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(directory.path(), u64::MAX).unwrap());
    append(&spool, 1);
    let (orders, receiver) = watch::channel(Orders { mode: Mode::Run, wakes: 0 });
    let (attempts, fatal) = (Attempts::default(), Arc::new(OnceLock::new()));
    let script = Sink::Scripted(Script { act: Box::new(act), attempts: Arc::clone(&attempts) });
    let log = Arc::new(log(Destination::Stdout));
    let worker = Worker::with(Some(script), log, identity(), Arc::clone(&spool), receiver, Arc::clone(&fatal));
    let _logged = tracing::subscriber::set_default(subscriber);
    (Scene { orders, attempts, fatal, spool, directory, lines, start: Virtual::now(), _logged }, worker)
}

impl Scene {
    fn order(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }

    fn wake(&self) {
        self.orders.send_modify(|orders| orders.wakes += 1);
    }

    /// Seconds between attempts.
    fn waits(&self) -> Vec<f64> {
        let attempts = self.attempts.lock().unwrap();
        attempts.windows(2).map(|two| two[1].0.duration_since(two[0].0).as_secs_f64()).collect()
    }

    fn count(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    fn status(&self) -> Status {
        Status::read(self.directory.path()).unwrap().unwrap()
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_and_said_once() {
    let (scene, worker) = scene(|number| if number <= 12 { Act::Retry("SlowDown") } else { Act::Take });
    let driver = async {
        seconds(1).await;
        assert_eq!(scene.status().state, State::Retrying);
        assert_eq!(scene.status().error.unwrap().code, "SlowDown");
        seconds(3_600).await;
        assert!(scene.spool.segments().is_empty());
        let status = scene.status();
        assert_eq!((status.state, status.error), (State::Idle, None));
        assert!(status.last_delivery.is_some());
        scene.order(Mode::Stop(Virtual::now()));
    };
    let (fault, ()) = tokio::join!(worker.run(), driver);
    assert_eq!(fault, None);
    let waits = scene.waits();
    for (wait, longest) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0, 60.0]) {
        assert!(*wait <= longest + 0.01, "{waits:?}");
    }
    let warned = scene.lines.of_level("WARN");
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("fl-1") && warned[0].contains("SlowDown") && warned[0].contains("words"), "{warned:?}");
    assert_eq!(scene.lines.of_level("INFO").len(), 1);
    assert!(scene.lines.of_level("ERROR").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_person_is_tried_slowly_and_said_for_each_thing_to_do() {
    let act = |number| match number {
        1..=5 => Act::Refuse("AccessDenied"),
        6..=8 => Act::Refuse("NoSuchBucket"),
        _ => Act::Take,
    };
    let (scene, worker) = scene(act);
    let driver = async {
        seconds(1).await;
        assert_eq!(scene.status().state, State::Refused);
        seconds(7_200).await;
        assert!(scene.spool.segments().is_empty());
        scene.order(Mode::Stop(Virtual::now()));
    };
    tokio::join!(worker.run(), driver);
    let waits = &scene.waits()[..8];
    assert!(waits.iter().all(|wait| (30.0..300.1).contains(wait)), "{waits:?}");
    let said = scene.lines.of_level("ERROR");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("AccessDenied") && said[1].contains("NoSuchBucket"), "{said:?}");
    assert_eq!(scene.lines.of_level("INFO").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_segment_does_not_shorten_the_wait_and_an_order_does() {
    let (scene, worker) = scene(|_| Act::Refuse("AccessDenied"));
    let driver = async {
        for number in 2..20 {
            seconds(1).await;
            append(&scene.spool, number);
            scene.wake();
        }
        assert_eq!(scene.count(), 1);
        scene.order(Mode::Finish(Virtual::now() + Duration::from_secs(60)));
    };
    let (fault, ()) = tokio::join!(worker.run(), driver);
    // At once, and then it is known that there is no point in waiting.
    assert_eq!(scene.count(), 2);
    assert!(scene.start.elapsed() < Duration::from_secs(20));
    assert_eq!(fault.unwrap().code, "AccessDenied");
    assert_eq!(scene.status().state, State::Refused);
}

#[tokio::test(start_paused = true)]
async fn finishing_asks_for_all_and_goes_on_until_the_deadline() {
    let (scene, worker) = scene(|number| if number == 1 { Act::Idle } else { Act::Retry("SlowDown") });
    let driver = async {
        seconds(5).await;
        assert!(scene.attempts.lock().unwrap().iter().all(|(_, all)| !all));
        scene.order(Mode::Finish(Virtual::now() + Duration::from_secs(20)));
    };
    let (fault, ()) = tokio::join!(worker.run(), driver);
    assert_eq!(fault.unwrap().code, "SlowDown");
    let end = scene.start.elapsed().as_secs_f64();
    assert!((24.9..25.1).contains(&end), "{end}");
    let attempts = scene.attempts.lock().unwrap();
    assert!(attempts.len() > 3 && attempts.last().unwrap().1);
}

#[tokio::test(start_paused = true)]
async fn finishing_ends_when_nothing_is_left() {
    let (scene, worker) = scene(|_| Act::Take);
    append(&scene.spool, 2);
    scene.order(Mode::Finish(Virtual::now() + Duration::from_secs(20)));
    assert_eq!(worker.run().await, None);
    assert!(scene.spool.segments().is_empty());
    assert!(scene.start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_is_given_up_at_the_deadline() {
    for mode in [Mode::Finish, Mode::Stop] {
        let (scene, worker) = scene(|_| Act::Hang);
        let driver = async {
            seconds(100).await;
            scene.order(mode(Virtual::now() + Duration::from_secs(3)));
        };
        tokio::join!(worker.run(), driver);
        assert_eq!(scene.start.elapsed().as_secs(), 103);
        assert_eq!(scene.spool.segments().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_segment_goes_at_once() {
    let (scene, worker) = scene(|_| Act::Take);
    let driver = async {
        for number in 2..5 {
            seconds(7).await;
            append(&scene.spool, number);
            scene.wake();
            sleep(Duration::from_millis(10)).await;
            assert!(scene.spool.segments().is_empty());
        }
        scene.order(Mode::Flush);
        seconds(1).await;
        assert!(scene.attempts.lock().unwrap().last().unwrap().1);
        scene.order(Mode::Stop(Virtual::now()));
    };
    tokio::join!(worker.run(), driver);
}

#[tokio::test(start_paused = true)]
async fn ends_with_the_reader_or_with_who_gives_orders() {
    let (scene, worker) = scene(|_| Act::Fatal);
    assert_eq!(worker.run().await.unwrap().code, "stdout");
    assert_eq!(scene.fatal.get().unwrap().code, "stdout");
    for act in [|_| Act::Idle, |_| Act::Hang, |_| Act::Retry("SlowDown"), |_| Act::Refuse("AccessDenied")] {
        let (scene, worker) = super::tests::scene(act);
        let Scene { orders, start, .. } = scene;
        let driver = async {
            seconds(10).await;
            drop(orders);
        };
        tokio::join!(worker.run(), driver);
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}

/// A window an object.
fn directory_log(root: &Path) -> Arc<FlowLog> {
    Arc::new(log(Destination::Directory {
        root: root.to_owned(),
        layout: Layout::default(),
        retention: Retention::default(),
    }))
}

fn objects(root: &Path) -> usize {
    let mut entries = vec![root.to_owned()];
    let mut count = 0;
    while let Some(path) = entries.pop() {
        match fs::read_dir(&path) {
            Ok(more) => entries.extend(more.map(|entry| entry.unwrap().path())),
            Err(_) => count += usize::from(path.extension().is_some_and(|extension| extension == "gz")),
        }
    }
    count
}

/// Until it is so; for ever is a minute.
fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_thread_delivers_and_ends() {
    let state = tempfile::tempdir().unwrap();
    let (root, directory) = (state.path().join("root"), state.path().join("fl-1"));
    let spool = Arc::new(Spool::open(&directory, u64::MAX).unwrap());
    let start = || Delivery::start(directory_log(&root), identity(), Arc::clone(&spool), directory.clone()).unwrap();
    // Somebody's file is in the way.
    fs::write(&root, "").unwrap();
    let delivery = start();
    append(&spool, 1);
    delivery.wake();
    wait_for(|| Status::read(&directory).unwrap().is_some_and(|status| status.state == State::Refused));
    let finished = delivery.finish(Instant::now() + Duration::from_secs(60));
    assert_eq!((finished.segments, finished.records), (1, 1));
    assert_eq!(finished.fault.unwrap().code, "disk");
    let settings = directory.join(FLOW_LOG);
    let read: FlowLog = serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    assert_eq!(read, *directory_log(&root));
    let made = fs::metadata(&settings).unwrap().modified().unwrap();
    fs::remove_file(&root).unwrap();
    let delivery = start();
    wait_for(|| objects(&root) == 1);
    append(&spool, 2);
    delivery.wake();
    wait_for(|| objects(&root) == 2);
    append(&spool, 3);
    assert_eq!(delivery.fatal(), None);
    let finished = delivery.finish(Instant::now() + Duration::from_secs(60));
    assert_eq!(finished, Finished { segments: 0, records: 0, fault: None, fatal: None });
    assert_eq!(objects(&root), 3);
    assert_eq!(fs::metadata(&settings).unwrap().modified().unwrap(), made);
    let status = Status::read(&directory).unwrap().unwrap();
    assert_eq!((status.error, status.delivered.segments), (None, 3));
    start().stop();
}
