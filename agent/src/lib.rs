//! flowlogd: VPC Flow Logs for any Linux host. `ARCHITECTURE.md` tells the way of a packet.

#[doc(hidden)]
pub mod bench;
pub mod capture;
pub mod cli;

mod assemble;
#[allow(dead_code, reason = "until `run` reads it")]
mod config;
mod daemon;
mod doctor;
mod durable;
mod encode;
mod exclude;
mod fault;
#[allow(dead_code, reason = "until all of delivery is there")]
mod flow_log;
#[allow(dead_code, reason = "until all of delivery is there")]
mod format;
#[allow(dead_code, reason = "until `run` asks for ids by address")]
mod identity;
mod journal;
mod pipeline;
mod record;
mod select;
mod sink;
mod stack;
mod state_lock;
mod verdict;
mod wall;
mod window;
