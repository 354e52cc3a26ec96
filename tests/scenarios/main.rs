//! One module per promise of the agent; see each for what it promises.

mod bad_input;
mod bridge;
mod coexistence;
mod conservation;
mod hotplug;
mod ledger;
mod ping;
mod table_limits;
mod throughput;
mod udp;
mod vxlan;
