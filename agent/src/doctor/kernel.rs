//! What the kernel and our privileges allow. Loads the programs once, attached to nothing.
#![forbid(unsafe_code)]

use std::fs;

use super::Check;
use crate::capture::{self, Capture, Sizes};
use crate::privileges::Privileges;

pub(super) fn checks() -> Vec<Check> {
    vec![capabilities(), programs(), kernel(), verdicts(), lockdown(), realtime()]
}

fn capabilities() -> Check {
    let missing = Privileges::read().missing();
    if missing.is_empty() {
        return Check::good("privileges", "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN");
    }
    let fix = "run as root, or give them to the service: CapabilityBoundingSet= and AmbientCapabilities= of its unit";
    Check::bad("privileges", format!("missing {}", missing.join(", ")), fix)
}

fn programs() -> Check {
    let sizes = Sizes::for_machine(crate::daemon::possible_cpus(), 0);
    match Capture::open(sizes) {
        Ok(_) => Check::good("programs", "load and verify"),
        Err(error) => {
            let fix = "needs Linux 5.15 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF";
            Check::bad("programs", error.explained(), fix)
        }
    }
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let tcx = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 6);
    if tcx {
        return Check::good("kernel", format!("{release}, TCX hooks"));
    }
    let found = format!("{release}, no TCX: clsact filters are used, other tools can remove them");
    Check::limited("kernel", found, "Linux 6.6 or newer has TCX")
}

fn verdicts() -> Check {
    match capture::verdicts_available() {
        Ok(()) => Check::good("verdicts", "BTF and drop reasons"),
        Err(why) => {
            let fix = "Linux 5.17 or newer with CONFIG_DEBUG_INFO_BTF; not needed for counting";
            Check::limited("verdicts", format!("every record will be ACCEPT: {why}"), fix)
        }
    }
}

fn lockdown() -> Check {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
    if mode == "confidentiality" {
        let fix = "lockdown=integrity lets the drop programs read packets";
        return Check::limited("lockdown", mode, fix);
    }
    Check::good("lockdown", mode)
}

fn realtime() -> Check {
    let realtime = fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1");
    if !realtime {
        return Check::good("preemption", "not PREEMPT_RT");
    }
    let found = "PREEMPT_RT: programs on one CPU can interrupt each other, counts may be off";
    Check::limited("preemption", found, "a kernel without PREEMPT_RT, or with CONFIG_PREEMPT_RT_NEEDS_BH_LOCK")
}
