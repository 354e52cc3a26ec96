//! Read-only globals, set by user space before load. After load the verifier knows them as constants.
#![allow(unsafe_code)]

macro_rules! setting {
    ($(#[$doc:meta])* $name:ident, $get:ident, $ty:ty) => {
        #[unsafe(no_mangle)]
        static $name: $ty = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $get() -> $ty {
            // SAFETY: a static of this type; volatile because the loader rewrites its bytes in the object.
            unsafe { core::ptr::read_volatile(&raw const $name) }
        }
    };
}

setting!(
    /// Possible CPUs: each owns its part of every table.
    CPUS, cpus, u32);
setting!(
    /// Random per load, so that nobody can choose flows that share a set.
    SEED, seed, u64);
setting!(
    /// Sets of one CPU's part of `FLOW4`: a power of two.
    SETS4, sets4, u32);
setting!(
    /// `64 - log2(SETS4)`: what is left of a 64-bit hash is a set index.
    SHIFT4, shift4, u32);
setting!(
    /// As [`sets4`], of `FLOW6`.
    SETS6, sets6, u32);
setting!(
    /// As [`shift4`], of `FLOW6`.
    SHIFT6, shift6, u32);
setting!(
    /// Sets of one CPU's part of `INTERFACES`: a power of two.
    SETS_INTERFACE, sets_interface, u32);
setting!(
    /// Time stamps count `jiffies64 >> TIME_SHIFT`.
    TIME_SHIFT, time_shift, u32);
