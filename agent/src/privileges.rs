//! What the kernel lets this process do, read back from /proc/self/status, and who refuses what it should.
//! Must not know what was refused, nor change what we may do.
//! Always: what cannot be read counts as not given.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;

/// Capabilities by number (include/uapi/linux/capability.h), without `CAP_`.
#[rustfmt::skip]
const NAMES: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];
/// Those that the agent needs.
const NEEDED: [&str; 3] = ["BPF", "PERFMON", "NET_ADMIN"];

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Set(u64);

impl Set {
    fn has(self, name: &str) -> bool {
        NAMES.iter().position(|known| *known == name).is_some_and(|bit| self.0 >> bit & 1 == 1)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (1 << NAMES.len()) - 1;
        match self.0 {
            0 => f.write_str("none"),
            bits if bits & all == all => f.write_str("all"),
            bits => {
                let named = NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
                let mut names: Vec<String> = named.map(|(_, name)| format!("CAP_{name}")).collect();
                // Of a newer kernel.
                names.extend((NAMES.len()..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| format!("CAP_{bit}")));
                f.write_str(&names.join(","))
            }
        }
    }
}

/// Of this process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Privileges {
    pub(crate) effective: Set,
    pub(crate) permitted: Set,
    pub(crate) bounding: Set,
    pub(crate) ambient: Set,
    /// 0 none, 1 strict, 2 a filter.
    seccomp: u32,
    /// Capabilities hold only for what belongs to our user namespace, which the kernel's programs do not.
    is_confined: bool,
    /// Of the kernel, such as `confidentiality`.
    lockdown: String,
}

impl Privileges {
    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let lockdown = text("/sys/kernel/security/lockdown");
        Self {
            is_confined: !is_initial(&text("/proc/self/uid_map")),
            lockdown: lockdown.split(['[', ']']).nth(1).unwrap_or("none").to_owned(),
            ..Self::parse(&text("/proc/self/status"))
        }
    }

    pub(crate) fn parse(status: &str) -> Self {
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let set = |name| Set(field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default());
        Self {
            effective: set("CapEff"),
            permitted: set("CapPrm"),
            bounding: set("CapBnd"),
            ambient: set("CapAmb"),
            seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// In one line, what we were given.
    pub(crate) fn log(&self) {
        let Self { effective, permitted, bounding, ambient, .. } = self;
        tracing::info!(%effective, %permitted, %bounding, %ambient, seccomp = self.seccomp_mode(), "capabilities");
    }

    fn seccomp_mode(&self) -> &'static str {
        match self.seccomp {
            0 => "none",
            1 => "strict",
            _ => "filter",
        }
    }

    /// Needed and not effective, with `CAP_`.
    pub(crate) fn missing(&self) -> Vec<String> {
        NEEDED.iter().filter(|name| !self.effective.has(name)).map(|name| format!("CAP_{name}")).collect()
    }

    /// What is missing, and where it is to be given. None: nothing is.
    pub(crate) fn shortage(&self) -> Option<String> {
        let missing = self.missing().join(" ");
        if missing.is_empty() {
            return None;
        }
        let is_bounded = NEEDED.iter().any(|name| !self.bounding.has(name));
        let unit = if is_bounded { "CapabilityBoundingSet= and AmbientCapabilities=" } else { "AmbientCapabilities=" };
        Some(format!("missing {missing}: run as root, or give them to the service with {unit} in its unit"))
    }

    /// Who is likely to have forbidden what the capabilities allow. None: they are what is missing.
    pub(crate) fn denial(&self) -> Option<String> {
        if !self.missing().is_empty() {
            return None;
        }
        if self.is_confined {
            let why = "the capabilities are those of a user namespace and do not hold on the host";
            return Some(format!(
                "{why}: run it in the initial one (PrivateUsers=no, a container that is not rootless)"
            ));
        }
        let mut suspects = Vec::new();
        if self.seccomp != 0 {
            let (name, mode) = (self.seccomp_mode(), self.seccomp);
            suspects.push(format!(
                "a seccomp filter (Seccomp: {mode}, {name}, in /proc/self/status; SystemCallFilter= of the unit must let bpf in, or the container's profile)"
            ));
        }
        if self.lockdown != "none" && !self.lockdown.is_empty() {
            suspects.push(format!("kernel lockdown ({} in /sys/kernel/security/lockdown)", self.lockdown));
        }
        suspects.push("a security module (ausearch -m AVC, or journalctl -k)".to_owned());
        Some(format!("the capabilities are effective, so it is refused by {}", suspects.join(", or ")))
    }
}

/// Whether a user namespace's ids are the host's.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "CapInh:\t000000c000001000\nCapPrm:\t000000c000001000\nCapEff:\t000000c000001000\n\
        CapBnd:\t000000c000001000\nCapAmb:\t000000c000001000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t12\n";

    fn of(status: &str) -> Privileges {
        Privileges { lockdown: "none".to_owned(), ..Privileges::parse(status) }
    }

    #[test]
    fn sets_by_name() {
        let unit = of(UNIT);
        assert_eq!(unit.effective.to_string(), "CAP_NET_ADMIN,CAP_PERFMON,CAP_BPF");
        assert_eq!(unit.bounding, unit.ambient);
        for (bits, want) in [(0, "none"), ((1 << 41) - 1, "all"), (u64::MAX, "all"), (1 | 1 << 50, "CAP_CHOWN,CAP_50")]
        {
            assert_eq!(Set(bits).to_string(), want);
        }
        assert_eq!(of("").missing(), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
    }

    #[test]
    fn what_is_missing_names_the_directives() {
        assert_eq!(of(UNIT).shortage(), None);
        let no_ambient = UNIT.replace("CapEff:\t000000c000001000", "CapEff:\t0000000000001000");
        let why = of(&no_ambient).shortage().unwrap();
        assert!(why.starts_with("missing CAP_BPF CAP_PERFMON: "), "{why}");
        assert!(why.contains("with AmbientCapabilities= in"), "{why}");
        let no_bounding = no_ambient.replace("CapBnd:\t000000c000001000", "CapBnd:\t0000000000001000");
        assert!(of(&no_bounding).shortage().unwrap().contains("CapabilityBoundingSet= and AmbientCapabilities="));
    }

    #[test]
    fn a_refusal_in_spite_of_capabilities_names_who_refuses() {
        let unit = of(UNIT);
        let why = unit.denial().unwrap();
        assert!(why.contains("a seccomp filter (Seccomp: 2, filter, in /proc/self/status; SystemCallFilter="), "{why}");
        assert!(why.contains("a security module"), "{why}");
        assert!(!why.contains("lockdown"), "{why}");
        let locked =
            Privileges { lockdown: "confidentiality".to_owned(), ..of(&UNIT.replace("Seccomp:\t2", "Seccomp:\t0")) };
        let why = locked.denial().unwrap();
        assert!(why.contains("kernel lockdown (confidentiality in") && !why.contains("seccomp"), "{why}");
        let confined = Privileges { is_confined: true, ..unit };
        assert!(confined.denial().unwrap().contains("user namespace"));
        assert_eq!(of("").denial(), None);
    }

    #[test]
    fn only_the_host_has_all_ids() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
    }
}
