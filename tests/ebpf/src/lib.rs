//! Empty: everything is in the binary, which exists only for the kernel.
#![no_std]
#![forbid(unsafe_code)]
