//! Programs of somebody else's, for the tests: one that counts, some that change VLAN tags, and some that drop what goes
//! to one port. All others let the packet go on to the next program.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[allow(unsafe_code)]
mod entry {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC};
    use aya_ebpf::helpers::{bpf_skb_vlan_pop, bpf_skb_vlan_push};
    use aya_ebpf::macros::{cgroup_skb, classifier, map, xdp};
    use aya_ebpf::maps::PerCpuArray;
    use aya_ebpf::programs::{SkBuffContext, TcContext, XdpContext};

    const TYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
    const TYPE_VLAN: u16 = 0x8100u16.to_be();
    const TYPE_QINQ: u16 = 0x88a8u16.to_be();
    /// As many as are pushed.
    const TAGS_MAX: u32 = 2;
    /// UDP to this port is dropped, of IPv4 without options and IPv6 without extension headers.
    const PORT: [u8; 2] = 7001u16.to_be_bytes();
    const PROTOCOL_UDP: u8 = 17;
    const ETHERNET_LEN: usize = 14;

    /// What the program did: packets counted or dropped, tags pushed or tags popped.
    #[map]
    static DONE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

    fn done() {
        if let Some(count) = DONE.get_ptr_mut(0) {
            // SAFETY: this CPU's own slot, softirqs are off.
            unsafe { *count += 1 };
        }
    }

    /// IPv4 only: the kernel itself sends IPv6 packets that no test asked for.
    fn count(skb: *mut __sk_buff) {
        // SAFETY: context field, checked by the verifier.
        if unsafe { (*skb).protocol } == TYPE_IPV4 {
            done();
        }
    }

    fn push(skb: *mut __sk_buff, ethertype: u16, id: u16) {
        // SAFETY: the context pointer of a running classifier.
        if unsafe { bpf_skb_vlan_push(skb, ethertype, id) } == 0 {
            done();
        }
    }

    /// Whether to drop a packet whose IP header is at `ip`; counts those.
    #[inline(always)]
    fn drops(ip: usize, load: impl Fn(usize) -> Option<u8>) -> bool {
        let (protocol, udp) = match load(ip).map(|byte| byte >> 4) {
            Some(4) => (ip + 9, ip + 20),
            Some(6) => (ip + 6, ip + 40),
            _ => return false,
        };
        let found =
            load(protocol) == Some(PROTOCOL_UDP) && load(udp + 2) == Some(PORT[0]) && load(udp + 3) == Some(PORT[1]);
        if found {
            done();
        }
        found
    }

    #[classifier]
    pub fn drop_port(ctx: TcContext) -> i32 {
        if drops(ETHERNET_LEN, |at| ctx.load(at).ok()) { TC_ACT_SHOT as i32 } else { TC_ACT_UNSPEC }
    }

    #[xdp]
    pub fn drop_port_xdp(ctx: XdpContext) -> u32 {
        let (data, end) = (ctx.data(), ctx.data_end());
        let load = |at: usize| {
            let byte = data + at;
            // SAFETY: checked here, and by the verifier.
            (byte + 1 <= end).then(|| unsafe { *(byte as *const u8) })
        };
        if drops(ETHERNET_LEN, load) { XDP_DROP } else { XDP_PASS }
    }

    /// 1 lets a packet go.
    #[cgroup_skb(egress)]
    pub fn drop_port_cgroup(ctx: SkBuffContext) -> i32 {
        i32::from(!drops(0, |at| ctx.load(at).ok()))
    }

    /// Counts IPv4 packets.
    #[classifier]
    pub fn foreign(ctx: TcContext) -> i32 {
        count(ctx.skb.skb);
        TC_ACT_UNSPEC
    }

    /// Counts IPv4 packets and ends the walk over the programs, as one that decides does.
    #[classifier]
    pub fn foreign_ok(ctx: TcContext) -> i32 {
        count(ctx.skb.skb);
        TC_ACT_OK as i32
    }

    /// The tag goes into the packet's metadata.
    #[classifier]
    pub fn push_tag(ctx: TcContext) -> i32 {
        push(ctx.skb.skb, TYPE_VLAN, 100);
        TC_ACT_UNSPEC
    }

    /// The second tag moves the first one into the packet's data.
    #[classifier]
    pub fn push_two_tags(ctx: TcContext) -> i32 {
        push(ctx.skb.skb, TYPE_VLAN, 100);
        push(ctx.skb.skb, TYPE_QINQ, 200);
        TC_ACT_UNSPEC
    }

    /// Takes all tags off. The kernel moves each next one into the metadata.
    #[classifier]
    pub fn pop_tags(ctx: TcContext) -> i32 {
        let skb = ctx.skb.skb;
        for _ in 0..TAGS_MAX {
            // SAFETY: context field, checked by the verifier; the context pointer of a running classifier.
            unsafe {
                if (*skb).vlan_present == 0 || bpf_skb_vlan_pop(skb) != 0 {
                    break;
                }
            }
            done();
        }
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
