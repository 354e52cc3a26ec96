//! flowlogd: VPC Flow Logs for any Linux host. `ARCHITECTURE.md` tells the way of a packet.

#[doc(hidden)]
pub mod bench;
pub mod capture;
pub mod cli;

mod assemble;
mod daemon;
#[allow(dead_code, reason = "until windows go through the spool")]
mod disk;
mod doctor;
mod durable;
#[allow(dead_code, reason = "until windows go through the spool")]
mod emit;
mod encode;
mod exclude;
mod fault;
#[allow(dead_code, reason = "until all of delivery is there")]
mod flow_log;
#[allow(dead_code, reason = "until all of delivery is there")]
mod format;
mod identity;
mod journal;
mod pipeline;
mod record;
#[allow(dead_code, reason = "until windows go through the spool")]
mod register;
mod select;
#[allow(dead_code, unused_imports, reason = "until windows go through the spool")]
mod sink;
#[allow(dead_code, unused_imports, reason = "until windows go through the spool")]
mod spool;
mod state_lock;
mod verdict;
mod wall;
mod window;
