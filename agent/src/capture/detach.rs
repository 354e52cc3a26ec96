//! Removes what an agent that is gone left in the kernel, and reads nothing of it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use super::attach::Side;
use super::pin::{self, Pinned};
use super::{Error, clsact, filter, interfaces};

/// Removes all that an agent with this directory left behind, and says each thing in a line. The agent must not run.
pub fn detach(root: &Path, mut say: impl FnMut(String)) -> Result<(), Error> {
    let all = interfaces::list()?;
    let name = |ifindex: u32| {
        all.iter().find(|i| i.index == ifindex).map_or_else(|| format!("interface {ifindex}, gone"), |i| i.name.clone())
    };
    let handle = filter::handle(root);
    for (interface, side) in all.iter().flat_map(|interface| Side::BOTH.map(|side| (interface, side))) {
        let filters = filter::left(interface.index, side, handle);
        filter::remove(interface, side, &filters)?;
        for filter in filters {
            let priority = filter.priority;
            say(format!("removed the filter at {} of {}, priority {priority}", side.name(), interface.name));
        }
    }
    for version in pin::versions(root) {
        let links = version.join("links");
        for pinned in pin::names_in(&links) {
            let path = links.join(&pinned);
            let what = match Pinned::parse(&pinned) {
                Some(Pinned::Link(ifindex, side)) => format!("the program at {} of {}", side.name(), name(ifindex)),
                Some(Pinned::Stub) => format!("the program {pinned} on kfree_skb"),
                Some(Pinned::Qdisc(ifindex)) => {
                    if let Some(interface) = all.iter().find(|interface| interface.index == ifindex) {
                        drop(clsact::Made::before(interface));
                    }
                    format!("the clsact qdisc of {}, unless others use it", name(ifindex))
                }
                None => continue,
            };
            let result = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            pin::gone(result).map_err(|source| Error::Io { what: "unpin", source })?;
            say(format!("removed {what}"));
        }
        for generation in pin::generations(&version) {
            pin::remove_generation(&generation);
            say(format!("removed the counters of the agent {}", generation.display()));
        }
        if version.join("shared").exists() {
            pin::remove_shared(&version);
            say(format!("removed the shared maps {}", version.join("shared").display()));
        }
        pin::prune(root, &version);
    }
    let _ = fs::remove_dir(root);
    Ok(())
}
