//! flowlogd: VPC Flow Logs for any Linux host. `ARCHITECTURE.md` tells the way of a packet.

pub mod capture;
