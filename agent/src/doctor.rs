//! What this kernel and these privileges allow. Each check says what it found and how to mend it.
//! Reads /proc and /sys and loads the programs once, attached to nothing.
#![forbid(unsafe_code)]

use crate::capture::{self, Capture, Sizes, interfaces};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Good,
    /// The agent runs, with less.
    Limited,
    /// The agent cannot run.
    Bad,
}

/// One line of the table.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    pub(crate) fix: Option<&'static str>,
}

/// Capabilities the agent needs: bit number (include/uapi/linux/capability.h) and name.
const CAPABILITIES: [(u32, &str); 3] = [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")];

/// Names of the needed capabilities that this process does not have.
pub(crate) fn missing_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    CAPABILITIES.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|&(_, name)| name).collect()
}

/// Runs all checks, in the order in which they matter.
pub(crate) fn checks() -> Vec<Check> {
    vec![capabilities(), programs(), kernel(), verdicts(), pins(), lockdown(), realtime(), selected()]
}

fn capabilities() -> Check {
    let missing = missing_capabilities();
    let (verdict, found) = if missing.is_empty() {
        (Verdict::Good, "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN".to_owned())
    } else {
        (Verdict::Bad, format!("missing {}", missing.join(", ")))
    };
    let fix = (verdict == Verdict::Bad).then_some("run as root, or give the service these AmbientCapabilities");
    Check { name: "privileges", verdict, found, fix }
}

fn programs() -> Check {
    let sizes = Sizes::for_machine(crate::daemon::possible_cpus(), 0);
    match Capture::open(sizes) {
        Ok(_) => Check { name: "programs", verdict: Verdict::Good, found: "load and verify".to_owned(), fix: None },
        Err(error) => Check {
            name: "programs",
            verdict: Verdict::Bad,
            found: error.to_string().lines().next().unwrap_or_default().to_owned(),
            fix: Some("needs Linux 5.15 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF"),
        },
    }
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let tcx = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 6);
    if tcx {
        return Check { name: "kernel", verdict: Verdict::Good, found: format!("{release}, TCX hooks"), fix: None };
    }
    Check {
        name: "kernel",
        verdict: Verdict::Limited,
        found: format!("{release}, no TCX: clsact filters are used, other tools can remove them"),
        fix: Some("Linux 6.6 or newer has TCX"),
    }
}

fn verdicts() -> Check {
    match capture::verdicts_available() {
        Ok(()) => {
            Check { name: "verdicts", verdict: Verdict::Good, found: "BTF and drop reasons".to_owned(), fix: None }
        }
        Err(why) => Check {
            name: "verdicts",
            verdict: Verdict::Limited,
            found: format!("every record will be ACCEPT: {why}"),
            fix: Some("Linux 5.17 or newer with CONFIG_DEBUG_INFO_BTF; not needed for counting"),
        },
    }
}

/// Where the default `--bpf-directory` is.
const BPF_FS: &str = "/sys/fs/bpf";

fn pins() -> Check {
    let is_bpf = statfs(BPF_FS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if is_bpf {
        return Check {
            name: "pins",
            verdict: Verdict::Good,
            found: format!("{BPF_FS} is a bpf file system"),
            fix: None,
        };
    }
    Check {
        name: "pins",
        verdict: Verdict::Limited,
        found: format!("{BPF_FS} is no bpf file system: counters will not survive a restart"),
        fix: Some("mount -t bpf bpf /sys/fs/bpf, or choose another place with --bpf-directory"),
    }
}

fn lockdown() -> Check {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
    let verdict = if mode == "confidentiality" { Verdict::Limited } else { Verdict::Good };
    Check { name: "lockdown", verdict, found: mode, fix: None }
}

fn realtime() -> Check {
    let realtime = fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1");
    if !realtime {
        return Check { name: "preemption", verdict: Verdict::Good, found: "not PREEMPT_RT".to_owned(), fix: None };
    }
    Check {
        name: "preemption",
        verdict: Verdict::Limited,
        found: "PREEMPT_RT: programs on one CPU can interrupt each other, counts may be off".to_owned(),
        fix: Some("a kernel without PREEMPT_RT, or with CONFIG_PREEMPT_RT_NEEDS_BH_LOCK"),
    }
}

fn selected() -> Check {
    let selection = crate::select::Selection::default();
    let names = interfaces::list()
        .map(|all| all.into_iter().filter(|i| selection.wants(i)).map(|i| i.name).collect::<Vec<_>>());
    match names {
        Ok(names) if !names.is_empty() => {
            Check { name: "interfaces", verdict: Verdict::Good, found: names.join(", "), fix: None }
        }
        Ok(_) => Check {
            name: "interfaces",
            verdict: Verdict::Limited,
            found: "none holds an address".to_owned(),
            fix: Some("give one an address, or choose with --interface"),
        },
        Err(error) => Check { name: "interfaces", verdict: Verdict::Bad, found: error.to_string(), fix: None },
    }
}
