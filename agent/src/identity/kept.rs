//! The metadata service's last answer, kept below the state directory for a start before the network is up.
//! Always: what another instance was told (a copied disk) is not believed.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::imds::Imds;
use crate::disk;

pub(crate) const FILE: &str = "instance.json";

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Where firmware says nothing of the instance.
    machine_id: String,
    imds: Imds,
}

/// `instance_id`: what the firmware says that this is.
pub(crate) fn read(state_directory: &Path, machine_id: &str, instance_id: Option<&str>) -> Option<Imds> {
    let text = std::fs::read(state_directory.join(FILE)).ok()?;
    let kept: Kept = serde_json::from_slice(&text).ok()?;
    let is_same = instance_id.map_or(kept.machine_id == machine_id, |id| id == kept.imds.instance_id);
    is_same.then_some(kept.imds)
}

pub(crate) fn write(state_directory: &Path, machine_id: &str, imds: &Imds) -> io::Result<()> {
    let (path, temporary) = (state_directory.join(FILE), state_directory.join(format!("{FILE}.tmp")));
    let kept = Kept { machine_id: machine_id.to_owned(), imds: imds.clone() };
    let file = disk::create(&temporary, 0o644)?;
    disk::write_all(&file, &serde_json::to_vec_pretty(&kept)?)?;
    disk::sync(&file)?;
    disk::rename(&temporary, &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::imds::Interface;
    use crate::identity::mac::Mac;
    use std::collections::BTreeMap;

    #[test]
    fn only_of_this_instance() {
        let state = tempfile::tempdir().unwrap();
        let read = |machine_id, instance_id| read(state.path(), machine_id, instance_id);
        assert_eq!(read("m", None), None);
        let interface = Interface { interface_id: "eni-1".to_owned(), ..Interface::default() };
        let interfaces = BTreeMap::from([(Mac([2, 0, 0, 0, 0, 1]), interface)]);
        let imds = Imds { instance_id: "i-1".to_owned(), interfaces, ..Imds::default() };
        write(state.path(), "m", &imds).unwrap();
        assert_eq!((read("m", None), read("m", Some("i-1"))), (Some(imds.clone()), Some(imds.clone())));
        // Firmware knows better than a file that images copy.
        assert_eq!((read("other", Some("i-1")), read("m", Some("i-2")), read("other", None)), (Some(imds), None, None));
        std::fs::write(state.path().join(FILE), "{").unwrap();
        assert_eq!(read("m", None), None);
    }
}
