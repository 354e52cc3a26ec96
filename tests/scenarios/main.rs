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
mod hotplug;
mod idle;
<<<<<<< HEAD
mod iptables;
=======
mod kill;
>>>>>>> w-kill
mod ledger;
mod nat;
mod ping;
mod rehook;
mod reject;
mod reject_fragments;
mod reject_hooks;
mod reject_offload;
mod reject_programs;
mod reject_rate;
mod restart;
mod stop;
mod table_limits;
mod throughput;
mod tun;
mod udp;
mod vlan;
mod vlan_offload;
mod vxlan;
