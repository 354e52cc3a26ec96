//! The spool's lines to standard output.
//! Always: at least once: a block that was not noted when the agent was killed is written again.
#![forbid(unsafe_code)]

use std::path::Path;

use super::walk::{Group, Walk};
use super::{Delivered, Outcome, Stdout, Step};
use crate::spool::Spool;

pub(crate) struct Print {
    stdout: Stdout,
    walk: Walk,
    group: Option<Group>,
    /// Blocks of the group that are out.
    done: usize,
    delivered: Delivered,
}

impl Print {
    /// `directory` is the spool's.
    pub(crate) fn new(directory: &Path) -> Self {
        let (stdout, walk) = (Stdout::new(), Walk::new(directory));
        Self { stdout, walk, group: None, done: 0, delivered: Delivered::default() }
    }

    pub(crate) fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// One block.
    pub(crate) fn deliver(&mut self, spool: &Spool) -> Result<Step, Outcome> {
        if self.group.is_none() {
            self.group = self.walk.next(spool)?;
            self.done = self.group.iter().flat_map(|group| group.calls.first()).copied().next().unwrap_or(0);
        }
        let Some(group) = &self.group else { return Ok(Step::Idle { due: None }) };
        if let Some(block) = group.blocks.get(self.done) {
            let outcome = self.stdout.put(block);
            if outcome != Outcome::Done {
                return Err(outcome);
            }
            self.done += 1;
            self.delivered.records += u64::from(block.records);
            self.delivered.bytes += u64::from(block.raw_len);
            self.delivered.text_bytes += u64::from(block.raw_len);
        }
        if self.done < group.blocks.len() {
            self.walk.note(&[self.done]);
        } else {
            self.delivered.segments += u64::from(self.walk.done(spool)?);
            self.group = None;
        }
        Ok(Step::Progress)
    }
}
