//! The pure half of the kernel side: how a packet is read and measured. The same source is compiled into the
//! BPF object and for the host, where it is tested. Knows no maps and no helpers.
#![no_std]
#![forbid(unsafe_code)]

pub mod packet;
pub mod parse;
pub mod size;
