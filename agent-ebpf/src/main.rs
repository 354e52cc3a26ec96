//! Entry points. Every one says "go on" whatever happens: TC_ACT_UNSPEC is TCX_NEXT.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Atomic addition needs inline assembly.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod classify;
#[cfg(target_arch = "bpf")]
mod conntrack;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod drops;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod reader;
#[cfg(target_arch = "bpf")]
mod settings;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod wake;
#[cfg(target_arch = "bpf")]
mod warn;
#[cfg(target_arch = "bpf")]
mod yardstick;

#[cfg(target_arch = "bpf")]
mod entry {
    use crate::classify::classify;
    use crate::count;
    use crate::drops;
    use crate::maps::{DROP_HANDLER, DROP_HANDLERS};
    use crate::yardstick;
    use agent_common::{EGRESS, INGRESS};
    use aya_ebpf::bindings::TC_ACT_UNSPEC;
    use aya_ebpf::macros::{btf_tracepoint, classifier};
    use aya_ebpf::programs::{BtfTracePointContext, TcContext};

    #[classifier]
    pub fn ingress(ctx: TcContext) -> i32 {
        classify::<INGRESS, false>(ctx.skb.skb);
        TC_ACT_UNSPEC
    }

    #[classifier]
    pub fn egress(ctx: TcContext) -> i32 {
        classify::<EGRESS, false>(ctx.skb.skb);
        TC_ACT_UNSPEC
    }

    /// For devices without a link-layer header: tun, WireGuard, IPIP.
    #[classifier]
    pub fn ingress_bare(ctx: TcContext) -> i32 {
        classify::<INGRESS, true>(ctx.skb.skb);
        TC_ACT_UNSPEC
    }

    #[classifier]
    pub fn egress_bare(ctx: TcContext) -> i32 {
        classify::<EGRESS, true>(ctx.skb.skb);
        TC_ACT_UNSPEC
    }

    /// Attached to `kfree_skb`, before the two that count.
    #[btf_tracepoint(function = "kfree_skb")]
    pub fn drop_before(_ctx: BtfTracePointContext) -> i32 {
        drops::forget();
        0
    }

    /// Attached to `kfree_skb`, before its twin.
    #[btf_tracepoint(function = "kfree_skb")]
    pub fn drop_first(ctx: BtfTracePointContext) -> i32 {
        drops::stub::<false>(&ctx);
        0
    }

    #[btf_tracepoint(function = "kfree_skb")]
    pub fn drop_second(ctx: BtfTracePointContext) -> i32 {
        drops::stub::<true>(&ctx);
        0
    }

    /// Where both go on. It may be interrupted by itself: the kernel keeps each of the two from that, but not what they
    /// jump to. So its stack must not be the private one, one for each CPU, that Linux 6.13 and later give a program
    /// (`check_max_stack_depth` in kernel/bpf/verifier.c): a program with a tail call has none. This one leads nowhere.
    #[btf_tracepoint(function = "kfree_skb")]
    pub fn drop_handler(ctx: BtfTracePointContext) -> i32 {
        drops::handle(&ctx);
        // SAFETY: no slot has this number, so nothing is jumped to.
        let _ = unsafe { DROP_HANDLER.tail_call(&ctx, DROP_HANDLERS) };
        0
    }

    /// The benchmark's yardstick: attached to `kfree_skb` and does nothing.
    #[btf_tracepoint(function = "kfree_skb")]
    pub fn drop_empty(_ctx: BtfTracePointContext) -> i32 {
        0
    }

    /// Run by user space to learn the jiffies of a moment: `jiffies64` is not readable from there.
    #[classifier]
    pub fn clock(_ctx: TcContext) -> i32 {
        count::clock();
        TC_ACT_UNSPEC
    }

    /// The yardstick of the benchmarks: a classifier that does nothing.
    #[classifier]
    pub fn empty(_ctx: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    /// The other yardstick: the ingress classifier over a per-CPU hash. The agent never loads it.
    #[classifier]
    pub fn ingress_hash(ctx: TcContext) -> i32 {
        yardstick::classify(ctx.skb.skb);
        TC_ACT_UNSPEC
    }

    /// Another flow's packet for each of the programs under test. A constant slot is a direct jump.
    #[classifier]
    pub fn vary_empty(ctx: TcContext) -> i32 {
        yardstick::vary(&ctx, 0);
        TC_ACT_UNSPEC
    }

    #[classifier]
    pub fn vary_ingress(ctx: TcContext) -> i32 {
        yardstick::vary(&ctx, 1);
        TC_ACT_UNSPEC
    }

    #[classifier]
    pub fn vary_hash(ctx: TcContext) -> i32 {
        yardstick::vary(&ctx, 2);
        TC_ACT_UNSPEC
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo) -> ! {
        loop {}
    }

    /// The kernel lets only GPL-compatible programs call some helpers.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 4] = *b"GPL\0";
}

/// The host build exists so that the workspace compiles as one; the programs exist only for the kernel.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
