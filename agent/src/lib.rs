//! flowlogd: VPC Flow Logs for any Linux host. `ARCHITECTURE.md` tells the way of a packet.

#[doc(hidden)]
pub mod bench;
pub mod capture;
pub mod cli;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

mod config;
mod daemon;
mod deliver;
mod disk;
mod doctor;
mod durable;
mod emit;
mod encode;
mod exclude;
mod fault;
mod flow_log;
mod flows;
mod format;
mod identity;
mod journal;
mod known;
mod metrics;
mod notify;
mod pipeline;
mod privileges;
mod prove;
mod record;
mod register;
mod replay;
mod select;
mod serve;
mod sink;
mod spool;
mod stack;
mod state_lock;
mod status;
mod subscription;
mod verdict;
mod wall;
mod window;
