//! A program as a filter on a clsact qdisc: found by its handle and name if a former agent left it, and then replaced in
//! place. Knows nothing of qdiscs and of TCX.
#![forbid(unsafe_code)]

use std::path::Path;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcError};

use super::attach::{Place, Side};
use super::interfaces::Interface;
use super::pin::Pins;
use super::{Error, clsact};

/// Priorities tried for a clsact filter. One of another kind or protocol keeps its priority to itself.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=16;

/// Names under which our filters can be.
const FILTER_NAMES: [&str; 4] = ["ingress", "egress", "ingress_bare", "egress_bare"];

/// Handle of our filters: a constant of ours, and a digest (FNV-1a) of the pin directory, so that agents with others
/// are told apart. With the name it says whose a filter is, also after an upgrade.
pub(crate) fn handle(root: &Path) -> u32 {
    let bytes = root.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    0xf10d_0000 | (hash >> 16 ^ hash & 0xffff)
}

/// Filters that an agent with this handle has left on one side of an interface.
pub(crate) fn left(ifindex: u32, side: Side, handle: u32) -> Vec<clsact::Filter> {
    let mut filters = clsact::filters(ifindex, side.is_egress()).unwrap_or_default();
    filters.retain(|filter| filter.handle == handle && FILTER_NAMES.contains(&filter.name.as_str()));
    filters
}

fn link_of(interface: &Interface, side: Side, filter: &clsact::Filter) -> Result<SchedClassifierLink, Error> {
    let handle = TcHandle::from(filter.handle);
    SchedClassifierLink::attached(&interface.name, side.attach_type(), filter.priority, handle, None)
        .map_err(|source| Error::Io { what: "find a filter's interface", source })
}

/// Removes such filters.
pub(crate) fn remove(interface: &Interface, side: Side, filters: &[clsact::Filter]) -> Result<(), Error> {
    for filter in filters {
        drop(link_of(interface, side, filter)?);
    }
    // Dropping says nothing of a failure.
    let left = clsact::filters(interface.index, side.is_egress()).unwrap_or_default();
    match filters.iter().find(|filter| left.contains(filter)) {
        Some(_) => Err(Error::FilterStays(interface.name.clone())),
        None => Ok(()),
    }
}

/// A filter that matches ends the walk as well.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    interface: &Interface,
    side: Side,
    pins: Option<&Pins>,
) -> Result<Place, Error> {
    let place = |program: &mut SchedClassifier, id| -> Result<Place, Error> {
        let link = program.take_link(id)?;
        Ok(Place::Filter { at: (link.priority()?, link.handle()?.into()), link: Some(link) })
    };
    let handle = pins.map(|pins| handle(pins.root()));
    let left = handle.map(|handle| left(interface.index, side, handle)).unwrap_or_default();
    if let Some((first, others)) = left.split_first() {
        let id = program.attach_to_link(link_of(interface, side, first)?)?;
        remove(interface, side, others)?;
        return place(program, id);
    }
    for priority in PRIORITIES {
        let handle = handle.map_or(TcHandle::AUTO_ASSIGN, TcHandle::from);
        let options = TcAttachOptions::Netlink(NlOptions { priority, handle, ..Default::default() });
        match program.attach_with_options(&interface.name, side.attach_type(), options) {
            Ok(id) => {
                if priority != *PRIORITIES.start() {
                    tracing::warn!(
                        interface = interface.name,
                        at = ?side,
                        "a filter comes first: what it decides on is not counted"
                    );
                }
                return place(program, id);
            }
            Err(ProgramError::TcError(TcError::NetlinkError(e))) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::NoPriority(interface.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_tells_directories_apart() {
        let [one, other] = ["/sys/fs/bpf/flowlogd", "/sys/fs/bpf/flowlogd2"].map(|path| handle(Path::new(path)));
        assert_eq!((one >> 16, other >> 16, one != other), (0xf10d, 0xf10d, true));
        // Never changes: the next version looks for it.
        assert_eq!(one, 0xf10d_7979);
    }
}
