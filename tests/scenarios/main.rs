//! One module per promise of the agent; see each for what it promises.

mod bad_input;
mod bridge;
mod clock;
mod clsact;
mod coexistence;
mod conservation;
mod detach;
mod drop_takeover;
mod exclusions;
mod fault_points;
mod hotplug;
mod idle;
mod kill;
mod ledger;
mod ping;
mod rehook;
mod reject;
mod restart;
mod stop;
mod table_limits;
mod throughput;
mod tun;
mod udp;
mod vlan;
mod vlan_offload;
mod vxlan;
