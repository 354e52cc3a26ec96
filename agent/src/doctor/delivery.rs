//! Each destination: as whom we come, and whether it is there. Says what was tested and what was not: an object that is
//! put for a test would stay, so none is.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use super::Check;
use crate::config::Config;
use crate::flow_log::{Destination, FlowLog};
use crate::sink::probe::{self, Place};

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let mut checks: Vec<Check> = probe::who(config.logs.iter().map(|log| &log.destination)).map(who).collect();
    checks.extend(config.logs.iter().map(destination));
    checks
}

fn who(asked: probe::Asked) -> Check {
    let probe::Asked { as_whom, answer } = asked;
    match answer {
        Ok(name) => Check::good("credentials", format!("{as_whom}: {name}")),
        Err(fault) => Check::bad("credentials", format!("{as_whom}: not usable: {}", fault.code), fault.message),
    }
}

fn destination(log: &FlowLog) -> Check {
    let shown = format!("{} to {}", log.id, log.destination);
    match &log.destination {
        Destination::Stdout => Check::good("destination", format!("{shown}: nothing to test")),
        Destination::Directory { root, .. } => directory(&shown, root),
        aws => match probe::place(aws) {
            Place::There => Check::good("destination", format!("{shown}: it is there; not tested: that we may write")),
            Place::Answers(code) => Check::good(
                "destination",
                format!("{shown}: the service answers ({code}); not tested: that it is there, and that we may write"),
            ),
            Place::Not(fault) => {
                Check::bad("destination", format!("{shown}: not to be reached: {}", fault.code), fault.message)
            }
        },
    }
}

/// A file that is made and removed again; nothing else.
fn directory(shown: &str, root: &Path) -> Check {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let file = there.join(format!(".flowlogd-doctor-{}", std::process::id()));
    let written = fs::OpenOptions::new().write(true).create_new(true).open(&file).and_then(|_| fs::remove_file(&file));
    let is_made = if there == root { "" } else { ", where it will be made" };
    match written {
        Ok(()) => Check::good("destination", format!("{shown}: a file was written in {}{is_made}", there.display())),
        Err(error) => {
            let fix = match error.kind() {
                io::ErrorKind::PermissionDenied => "allow the agent's user to write there",
                io::ErrorKind::ReadOnlyFilesystem => "mount it writable",
                _ => "move what is in the way, or correct log-destination",
            };
            Check::bad("destination", format!("{shown}: cannot write in {}: {error}", there.display()), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_directory_is_written_to_and_left_as_it_was() {
        let there = tempfile::tempdir().unwrap();
        for root in [there.path().to_owned(), there.path().join("not/yet")] {
            let check = directory("fl-1 to it", &root);
            assert_eq!(check.verdict, Verdict::Good, "{}", check.found);
            assert_eq!(check.found.contains("will be made"), root != there.path());
        }
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);
        let file = there.path().join("file");
        fs::write(&file, "").unwrap();
        let check = directory("fl-1 to it", &file.join("r"));
        assert_eq!(check.verdict, Verdict::Bad, "{}", check.found);
    }
}
