//! Which interfaces lie on which: a packet of a bridge, bond or VLAN also passes what is below it. Reads sysfs.
//! Knows nothing of flow logs.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Interface -> those directly above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stack(BTreeMap<String, BTreeSet<String>>);

impl Stack {
    /// Of this network namespace.
    pub(crate) fn read() -> Self {
        Self::read_below(Path::new("/sys/class/net"))
    }

    /// Each interface has links `upper_NAME` to what it is a part of, bridges and bonds included.
    fn read_below(class: &Path) -> Self {
        let names = |directory: &Path| -> Vec<String> {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let uppers = |name: &String| {
            let entries = names(&class.join(name)).into_iter();
            entries.filter_map(|entry| entry.strip_prefix("upper_").map(str::to_owned)).collect()
        };
        Self(names(class).into_iter().map(|name| (name.clone(), uppers(&name))).collect())
    }

    /// All that lies above, at any height.
    fn above<'a>(&'a self, name: &'a str) -> BTreeSet<&'a str> {
        let (mut found, mut next) = (BTreeSet::new(), vec![name]);
        while let Some(name) = next.pop() {
            let uppers = self.0.get(name).into_iter().flatten().map(String::as_str);
            next.extend(uppers.filter(|upper| found.insert(*upper)));
        }
        found
    }

    /// Of those that are captured: (lower, upper) pairs whose packets are counted on both.
    pub(crate) fn twice<'a>(&self, captured: &'a BTreeSet<String>) -> Vec<(&'a str, &'a str)> {
        let pairs = captured.iter().flat_map(|lower| {
            let above = self.above(lower);
            let both = captured.iter().filter(move |upper| above.contains(upper.as_str()));
            both.map(move |upper| (lower.as_str(), upper.as_str()))
        });
        pairs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel lays it out: eth0 and eth1 in bond0, bond0.5 on it, that in br0.
    fn class() -> tempfile::TempDir {
        let class = tempfile::tempdir().unwrap();
        for (lower, upper) in [("eth0", "bond0"), ("eth1", "bond0"), ("bond0", "bond0.5"), ("bond0.5", "br0")] {
            fs::create_dir_all(class.path().join(lower)).unwrap();
            fs::create_dir_all(class.path().join(upper)).unwrap();
            std::os::unix::fs::symlink("../x", class.path().join(lower).join(format!("upper_{upper}"))).unwrap();
            std::os::unix::fs::symlink("../x", class.path().join(upper).join(format!("lower_{lower}"))).unwrap();
        }
        class
    }

    #[test]
    fn pairs_at_any_height() {
        let class = class();
        let stack = Stack::read_below(class.path());
        let captured = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(stack.twice(&captured(&["br0", "eth2"])), []);
        assert_eq!(stack.twice(&captured(&["eth0", "eth1"])), []);
        assert_eq!(stack.twice(&captured(&["eth0", "br0"])), [("eth0", "br0")]);
        let all = captured(&["eth0", "bond0", "bond0.5"]);
        assert_eq!(stack.twice(&all), [("bond0", "bond0.5"), ("eth0", "bond0"), ("eth0", "bond0.5")]);
    }

    #[test]
    fn a_loop_ends() {
        let pair = |a: &str, b: &str| (a.to_owned(), BTreeSet::from([b.to_owned()]));
        let stack = Stack(BTreeMap::from([pair("a", "b"), pair("b", "a")]));
        assert_eq!(stack.above("a"), BTreeSet::from(["a", "b"]));
    }

    #[test]
    fn this_host_has_a_loopback() {
        assert!(Stack::read().0.contains_key("lo"));
    }
}
