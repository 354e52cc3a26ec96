//! Interfaces that come and go, and programs that somebody else has removed.
//! Must not know how a program hangs on an interface.
#![forbid(unsafe_code)]

use super::Daemon;
use crate::capture::{Hook, interfaces};
use crate::cli::Failure;
use crate::select::Named;
use std::time::Instant;

impl Daemon {
    /// Attaches to what is wanted now and lets go of what is not.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        let mut wanted = interfaces::list().map_err(crate::capture::Error::from)?;
        wanted.retain(|interface| self.wants(interface));
        let changes = self.capture.sync(&wanted);
        for (interface, hook) in &changes.attached {
            let id = self.known.host.interface_id(&interface.name);
            if let (Some(asking), Some(mac)) = (&mut self.asking, self.known.host.unknown_mac(&interface.name)) {
                asking.miss(mac);
            }
            tracing::info!(interface = %interface.name, %id, hook = ?hook, "attached");
            if *hook == Hook::Clsact {
                tracing::warn!(interface = %interface.name, "no TCX on this kernel: other tools can remove the filters");
            }
            self.left.retain(|&index| index != interface.index);
            self.tracked.insert(interface.index, Named::new(id, interface));
        }
        // Flow logs may choose by addresses, and these change.
        for interface in &wanted {
            if let Some(named) = self.tracked.get_mut(&interface.index) {
                *named = Named::new(named.id.clone(), interface);
            }
        }
        for interface in &changes.detached {
            tracing::info!(interface = %interface.name, "detached");
            self.left.push(interface.index);
        }
        self.unattached.clear();
        for (interface, error) in &changes.failed {
            // Gone between the listing and the attachment: the next change of the interfaces tells.
            if interfaces::list().is_ok_and(|now| now.iter().any(|i| i.index == interface.index)) {
                tracing::error!(interface = %interface.name, error = error.explained(), "cannot attach");
                self.unattached.push(interface.name.clone());
            }
        }
        Ok(())
    }

    /// Puts programs back that somebody else has removed.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        self.looked = Instant::now();
        self.leftovers.look();
        self.look_for_services();
        if let Some(imds) = self.asking.as_mut().and_then(|asking| asking.poll(Instant::now())) {
            self.learn(imds)?;
        }
        if self.was_pinned && !self.capture.is_pinned() {
            self.was_pinned = false;
            tracing::error!(
                "somebody removed what was pinned: a crash or a restart loses what the kernel has counted; restart"
            );
        }
        let changes = self.capture.mend();
        for interface in &changes.rehooked {
            // Each once in a window.
            if self.gaps.insert(interface.index) {
                self.tally.unhooked += 1;
                tracing::warn!(interface = %interface.name, "somebody took our programs off; hooked again, packets were missed");
            }
        }
        for (interface, error) in &changes.failed {
            tracing::error!(interface = %interface.name, %error, "cannot hook again");
        }
        Ok(())
    }
}
