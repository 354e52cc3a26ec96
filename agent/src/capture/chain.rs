//! Who hangs on an interface's hooks, in the order in which they see a packet: TCX, then the filters of clsact.
//! Looks only.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use aya::programs::loaded_programs;

use super::attach::Side;
use super::{Error, Hook, clsact, sys};

/// A program on a hook, whoever's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hanging {
    pub hook: Hook,
    /// None: only CAP_SYS_ADMIN may look programs up by id.
    pub name: Option<String>,
    /// Of a TCX program; of a filter its priority.
    pub id: u32,
}

impl fmt::Display for Hanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("?");
        match self.hook {
            Hook::Tcx => write!(f, "{name} (tcx, id {})", self.id),
            Hook::Clsact => write!(f, "{name} (clsact, priority {})", self.id),
        }
    }
}

/// On ingress, and on egress.
pub fn hanging(ifindex: u32) -> Result<[Vec<Hanging>; 2], Error> {
    let look = |source| Error::Io { what: "look at the interface's hook", source };
    let names: BTreeMap<u32, String> = loaded_programs()
        .map_while(Result::ok)
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .collect();
    let of = |side: Side| -> Result<Vec<Hanging>, Error> {
        // Kernels before 6.6 have no TCX, and say EINVAL.
        let programs = match sys::tcx_programs(ifindex, side.is_egress()) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
            programs => programs.map_err(look)?,
        };
        let tcx = programs.into_iter().map(|id| Hanging { hook: Hook::Tcx, name: names.get(&id).cloned(), id });
        let filters = clsact::filters(ifindex, side.is_egress()).map_err(|error| look(error.into()))?;
        let filters = filters.into_iter().map(|filter| Hanging {
            hook: Hook::Clsact,
            name: Some(filter.name),
            id: filter.priority.into(),
        });
        Ok(tcx.chain(filters).collect())
    };
    Ok([of(Side::Ingress)?, of(Side::Egress)?])
}
