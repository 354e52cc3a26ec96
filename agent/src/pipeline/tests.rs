use super::*;
use crate::capture::flow::{Buffers, Direction, FlowKey, InterfaceTotals};
use crate::flow_log::{Destination, Fields, FlowLog, TrafficType};
use crate::format::Format;
use crate::select::Selection;
use crate::spool::Spool;
use std::path::Path;
use std::sync::Arc;

fn flow(ifindex: u32, verdict: Verdict, dst: &str) -> Flow {
    let key = FlowKey {
        ifindex,
        direction: Direction::Egress,
        verdict,
        protocol: 17,
        src: [10, 0, 0, 1].into(),
        dst: dst.parse().unwrap(),
        src_port: 5000,
        dst_port: 53,
    };
    Flow { key, packets: 1, bytes: 60, first: 5, last: 6, tcp_flags: 0, reason: 0 }
}

fn drained(flows: Vec<Flow>, skipped: u64) -> Drained {
    let mut totals: BTreeMap<u32, InterfaceTotals> = BTreeMap::new();
    let zero = Total::default();
    for flow in &flows {
        let entry = totals.entry(flow.key.ifindex).or_insert(InterfaceTotals {
            ifindex: flow.key.ifindex,
            direction: Direction::Egress,
            seen: Total { packets: skipped, bytes: skipped },
            non_ip: zero,
            unparsable: [zero; 3],
            skipped: Total { packets: skipped, bytes: skipped },
            drops_skipped: zero,
            buffers: Buffers::default(),
        });
        entry.seen += Total { packets: 1, bytes: 60 };
    }
    Drained { batches: vec![flows], totals: totals.into_values().collect(), drops: Vec::new() }
}

fn pipeline(root: &Path, traffic_type: TrafficType) -> Pipeline {
    let log = FlowLog {
        id: "fl-1".to_owned(),
        selection: Selection { globs: vec!["*".to_owned()], subnets: Vec::new() },
        traffic_type,
        interval: 60,
        format: Format::default(),
        destination: Destination::Stdout,
        tags: BTreeMap::new(),
        fields: Fields::default(),
        spool_bytes_max: 1 << 20,
    };
    let spool = Spool::open(root, log.spool_bytes_max).unwrap();
    let subscription = Subscription::new(Arc::new(log), Arc::default(), Arc::new(spool));
    Pipeline::new(Settings::new(&[], &[], &[]).unwrap(), vec![subscription])
}

fn close(pipeline: &mut Pipeline, start: i64, end: i64, tracked: &BTreeMap<u32, Named>) -> Summary {
    let mut slice = pipeline.close((start, end), tracked, BTreeSet::new(), false);
    slice.number = start.cast_unsigned();
    pipeline.publish(&slice)
}

fn tracked(ifindexes: &[u32]) -> BTreeMap<u32, Named> {
    let named = |ifindex: u32| Named {
        id: format!("eni-{ifindex}"),
        name: format!("eth{ifindex}"),
        addresses: None,
        loopback: false,
    };
    ifindexes.iter().map(|&ifindex| (ifindex, named(ifindex))).collect()
}

/// All lines in the spool, sorted.
fn lines(root: &Path) -> Vec<String> {
    let spool = Spool::open(root, 1 << 20).unwrap();
    let blocks = spool.segments().into_iter().flat_map(|segment| spool.read(segment.id).unwrap());
    let text: String = blocks.map(|block| String::from_utf8(block.unwrap().text().unwrap()).unwrap()).collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

type Figures = (u64, u64, [Total; 3], [Total; exclude::COUNT], (i128, i128));

fn figures(s: &Summary) -> Figures {
    assert!(s.error.is_none());
    (s.records, s.unnamed, [s.seen, s.skipped, s.excluded], s.excluded_by, s.sum_error)
}

#[test]
fn a_window_waits_for_room() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("spool");
    let mut pipeline = pipeline(&directory, TrafficType::All);
    // Nothing can be made in a directory that is none.
    std::fs::rename(&directory, root.path().join("away")).unwrap();
    std::fs::write(&directory, "").unwrap();
    for (start, waiting) in [(0, 1), (60, 2)] {
        pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.9")], 0));
        let got = close(&mut pipeline, start, start + 59, &tracked(&[1]));
        assert_eq!((got.records, got.waiting, got.error.is_some(), got.lost_records), (0, waiting, true, 0));
    }
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(root.path().join("away"), &directory).unwrap();
    let got = close(&mut pipeline, 120, 179, &tracked(&[1]));
    assert_eq!((got.records, got.waiting, got.error.is_none()), (3, 0, true));
    assert_eq!(
        lines(&directory),
        [
            "2 000000000000 eni-1 - - - - - - - 120 179 - NODATA",
            "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 5 6 ACCEPT OK",
            "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 60 60 ACCEPT OK",
        ]
    );
}

#[test]
fn windows_become_lines() {
    let root = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(root.path(), TrafficType::All);
    assert_eq!(figures(&close(&mut pipeline, 0, 59, &tracked(&[1, 2]))), figures(&Summary::default()));
    assert!(lines(root.path()).is_empty());

    let flows = vec![
        flow(1, Verdict::Accept, "10.0.0.9"),
        flow(1, Verdict::Reject, "10.0.0.9"),
        flow(1, Verdict::Accept, "169.254.169.253"),
        flow(3, Verdict::Accept, "10.0.0.9"),
    ];
    pipeline.absorb(drained(flows, 0));
    let mut excluded_by = [Total::default(); exclude::COUNT];
    excluded_by[0] = Total { packets: 1, bytes: 60 };
    let want = Summary {
        records: 2,
        unnamed: 1,
        seen: Total { packets: 4, bytes: 240 },
        excluded: excluded_by[0],
        excluded_by,
        ..Summary::default()
    };
    assert_eq!(figures(&close(&mut pipeline, 0, 59, &tracked(&[1, 2]))), figures(&want));

    // 1 goes away after a last packet and is still known by its id; nothing of it follows.
    pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.8")], 7));
    let got = close(&mut pipeline, 60, 119, &tracked(&[2]));
    assert_eq!((got.records, got.skipped.packets, got.sum_error), (2, 7, (0, 0)));
    assert_eq!(figures(&close(&mut pipeline, 120, 179, &tracked(&[2]))), figures(&Summary::default()));

    assert_eq!(
        lines(root.path()),
        [
            "2 000000000000 eni-1 - - - - - - - 60 119 - SKIPDATA",
            "2 000000000000 eni-1 10.0.0.1 10.0.0.8 5000 53 17 1 60 60 60 ACCEPT OK",
            "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 5 6 ACCEPT OK",
            "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 5 6 REJECT OK",
        ]
    );
}

#[test]
fn excluded_traffic_alone_is_no_data_but_not_first_traffic() {
    let root = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(root.path(), TrafficType::All);
    for (dst, records) in [("169.254.169.253", 0), ("10.0.0.9", 1), ("169.254.169.253", 1)] {
        pipeline.absorb(drained(vec![flow(1, Verdict::Accept, dst)], 0));
        assert_eq!(close(&mut pipeline, 0, 59, &tracked(&[1])).records, records);
    }
    assert!(lines(root.path())[0].ends_with("0 59 - NODATA"));
}

#[test]
fn statuses_over_time() {
    type Row = (&'static [u32], &'static [u32], &'static [u32], &'static [&'static str]);
    let rows: [Row; 9] = [
        // (flows on, gaps on, tracked, statuses)
        (&[], &[], &[1, 2], &[]),
        (&[1], &[], &[1, 2], &[]),
        (&[], &[], &[1, 2], &["eni-1 NODATA"]),
        (&[1], &[1], &[1, 2], &["eni-1 SKIPDATA"]),
        (&[1], &[2], &[1, 2], &["eni-2 SKIPDATA"]),
        (&[], &[], &[1, 2], &["eni-1 NODATA", "eni-2 NODATA"]),
        (&[], &[], &[2], &["eni-2 NODATA"]),
        // Came back: a new interface, so nothing before its first traffic.
        (&[2], &[], &[1, 2], &[]),
        (&[], &[], &[1, 2], &["eni-2 NODATA"]),
    ];
    let root = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(root.path(), TrafficType::All);
    for (at, (flows, gaps, ifindexes, want)) in rows.into_iter().enumerate() {
        let flows = flows.iter().map(|&ifindex| flow(ifindex, Verdict::Accept, "10.0.0.9")).collect();
        pipeline.absorb(drained(flows, 0));
        let start = 60 * at as i64;
        let gaps = gaps.iter().copied().collect();
        let slice = pipeline.close((start, start + 59), &tracked(ifindexes), gaps, false);
        pipeline.publish(&slice);
        let ours = format!(" {start} {} - ", start + 59);
        let lines = lines(root.path());
        let statuses = lines.iter().filter(|line| line.contains(&ours));
        let got: Vec<String> = statuses
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .map(|fields| format!("{} {}", fields[2], fields[13]))
            .collect();
        assert_eq!(got, want, "row {at}");
    }
}

#[test]
fn traffic_types() {
    for (traffic_type, records) in [(TrafficType::All, 3), (TrafficType::Accept, 2), (TrafficType::Reject, 1)] {
        let root = tempfile::tempdir().unwrap();
        let mut pipeline = pipeline(root.path(), traffic_type);
        let flows = vec![
            flow(1, Verdict::Accept, "10.0.0.9"),
            flow(1, Verdict::Reject, "10.0.0.9"),
            flow(1, Verdict::Accept, "10.0.0.8"),
        ];
        pipeline.absorb(drained(flows, 0));
        let got = close(&mut pipeline, 0, 59, &tracked(&[1]));
        assert_eq!((got.records, got.sum_error), (records, (0, 0)));
    }
}
