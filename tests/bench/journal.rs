//! What it costs to make a drain safe before the kernel's copy is cleared, and to read it back.

use anyhow::Result;
use flowlogd::bench::{self, JournalCost};

use crate::report::{Cell, Table};
use crate::{Settings, drain, min_median};

type Step = (&'static str, fn(&JournalCost) -> std::time::Duration);

const STEPS: [Step; 3] =
    [("encode", |cost| cost.encode), ("encode + write + fsync", |cost| cost.append), ("replay", |cost| cost.replay)];

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (counts, rounds) = drain::counts_and_rounds(settings);
    let columns = ["flows", "step", "min", "median", "bytes per flow"];
    let mut table = Table::new("journal: ns per flow on one core, min/median", &columns);
    for &flows in counts {
        let mut capture = drain::open(flows)?;
        let mut costs = Vec::new();
        for _ in 0..rounds {
            let (drained, _) = drain::fill_and_drain(&mut capture, flows)?;
            let root = tempfile::tempdir()?;
            costs.push(bench::journal(drained, root.path())?);
        }
        for (name, time) in STEPS {
            let times: Vec<f64> = costs.iter().map(|cost| time(cost).as_secs_f64() * 1e9 / f64::from(flows)).collect();
            let (min, median) = min_median(&times);
            let (_, bytes) = min_median(&costs.iter().map(|cost| cost.bytes as f64).collect::<Vec<f64>>());
            table.row(vec![
                Cell::text(flows.to_string()),
                Cell::text(name),
                Cell::number(min, 1),
                Cell::number(median, 1),
                Cell::number(bytes / f64::from(flows), 1),
            ]);
        }
    }
    Ok(table)
}
