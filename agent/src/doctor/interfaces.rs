//! Which interfaces would be captured, and who else hangs on their hooks.
#![forbid(unsafe_code)]

use super::Check;
use crate::capture::interfaces::{self, Interface};
use crate::capture::{Hanging, hanging};
use crate::config::Config;
use crate::select::Selection;

pub(super) fn checks(config: Option<&Config>) -> Vec<Check> {
    let selections: Vec<Selection> = match config {
        Some(config) => config.logs.iter().map(|log| log.selection.clone()).collect(),
        None => vec![Selection::default()],
    };
    let all = match interfaces::list() {
        Ok(all) => all,
        Err(error) => return vec![Check::bad("interfaces", error.to_string(), "CAP_NET_ADMIN, and /proc")],
    };
    let chosen: Vec<Interface> =
        all.into_iter().filter(|interface| selections.iter().any(|one| one.wants(interface))).collect();
    let mut checks = vec![selected(&chosen)];
    checks.extend(chosen.iter().map(chain));
    checks
}

fn selected(chosen: &[Interface]) -> Check {
    let names: Vec<&str> = chosen.iter().map(|interface| interface.name.as_str()).collect();
    if names.is_empty() {
        let fix = "give one an address, or choose with --interface; those that come later are captured too";
        return Check::limited("interfaces", "none is chosen now", fix);
    }
    Check::good("interfaces", names.join(", "))
}

/// In the order in which they see a packet.
fn chain(interface: &Interface) -> Check {
    let side = |side: &[Hanging]| {
        let programs: Vec<String> = side.iter().map(ToString::to_string).collect();
        if programs.is_empty() { "nobody".to_owned() } else { programs.join(", ") }
    };
    match hanging(interface.index) {
        Ok([ingress, egress]) => {
            Check::good("hooks", format!("{}: ingress {}; egress {}", interface.name, side(&ingress), side(&egress)))
        }
        Err(error) => Check::limited("hooks", format!("{}: {error}", interface.name), "CAP_NET_ADMIN shows them"),
    }
}
