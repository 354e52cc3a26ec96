//! What needs system calls that Rust has no safe interface for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::{Background, Netns, run};
use crate::wait_for;

/// Debian's own, not one that a version manager shadows.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// bpf(BPF_PROG_QUERY) on `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const TCX: &str = r#"
import ctypes, os, platform, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
counts = []
for side in (46, 47):
    attr = ctypes.create_string_buffer(struct.pack("=IIIIQIIQQQQ", socket.if_nametoindex(sys.argv[1]), side, *[0] * 9), 64)
    if libc.syscall(number, 16, attr, len(attr)) != 0 and ctypes.get_errno() != 28:
        sys.exit(os.strerror(ctypes.get_errno()))
    counts.append(struct.unpack_from("=I", attr, 24)[0])
print(*counts)
"#;

/// bpf(BPF_OBJ_GET) of a pinned link and bpf(BPF_LINK_DETACH), as `bpftool link detach pinned` does.
const DETACH: &str = r#"
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
def bpf(command, *words):
    attr = ctypes.create_string_buffer(struct.pack("=QII", *words), 16)
    result = libc.syscall(number, command, attr, len(attr))
    if result < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return result
path = ctypes.create_string_buffer(sys.argv[1].encode())
bpf(34, bpf(7, ctypes.addressof(path), 0, 0), 0, 0)
"#;

/// Answers UDP datagrams by swapping the ends, as many as are asked for, and says how many packets and IP bytes that was.
const TUN: &str = r#"
import fcntl, os, signal, struct, sys
signal.alarm(60)
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x1001))
totals = {4: [0, 0], 6: [0, 0]}
left = int(sys.argv[2])
while left:
    packet = os.read(tun, 65536)
    version = packet[0] >> 4
    at, size, l4 = (12, 4, (packet[0] & 15) * 4) if version == 4 else (8, 16, 40)
    if packet[9 if version == 4 else 6] != 17:
        continue
    packet = (packet[:at] + packet[at + size : at + 2 * size] + packet[at : at + size] + packet[at + 2 * size : l4]
        + packet[l4 + 2 : l4 + 4] + packet[l4 : l4 + 2] + packet[l4 + 4 :])
    os.write(tun, packet)
    totals[version][0] += 1
    totals[version][1] += len(packet)
    left -= 1
print(*totals[4], *totals[6])
"#;

/// Sends frames, given in hexadecimal.
const FRAMES: &str = r#"
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    link.send(bytes.fromhex(frame))
"#;

/// Sends datagrams of one size. Being refused is part of the test.
const DATAGRAMS: &str = r#"
import socket, sys
to, port, size, count = sys.argv[1], *map(int, sys.argv[2:])
out = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(count):
    try:
        out.sendto(bytes(size), (to, port))
    except PermissionError:
        pass
"#;

/// A UDP socket with a filter that keeps nothing (`ret #0`, SO_ATTACH_FILTER). Says when it is there, and stays.
const DEAF: &str = r#"
import ctypes, socket, struct, sys, time
deaf = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))
deaf.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(program)))
deaf.bind((sys.argv[1], int(sys.argv[2])))
time.sleep(60)
"#;

/// Programs attached to a device by TCX, ingress and egress.
pub fn tcx_programs(ns: &Netns, device: &str) -> Result<(u32, u32)> {
    let text = ns.run(&[PYTHON, "-c", TCX, device])?;
    let (ingress, egress) = text.trim().split_once(' ').context("two counts")?;
    Ok((ingress.parse()?, egress.parse()?))
}

/// Detaches a pinned link from under its owner.
pub fn detach_link(pin: &Path) -> Result<()> {
    run(&[PYTHON, "-c", DETACH, pin.to_str().context("path")?])?;
    Ok(())
}

/// Sends whole frames from `device`.
pub fn send_frames(ns: &Netns, device: &str, frames: &[Vec<u8>]) -> Result<()> {
    let hex = frames.iter().map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect());
    let argv: Vec<String> = [PYTHON, "-c", FRAMES, device].into_iter().map(str::to_owned).chain(hex).collect();
    ns.run(&argv)?;
    Ok(())
}

/// Reads `count` UDP packets from a tun device and writes each back with its ends swapped. Prints packets and IP bytes
/// of IPv4, then of IPv6.
pub fn tun_echo(ns: &Netns, device: &str, count: u64) -> Result<Background> {
    ns.spawn_argv(&[PYTHON, "-c", TUN, device, &count.to_string()])
}

/// The command line of a process that sends datagrams; see [`crate::cgroup`].
pub fn datagrams_argv(to: &str, port: u16, size: usize, count: u64) -> Vec<String> {
    let numbers = [port.to_string(), size.to_string(), count.to_string()];
    [PYTHON, "-c", DATAGRAMS, to].into_iter().map(str::to_owned).chain(numbers).collect()
}

/// A socket at `address` whose filter drops every datagram; it is there when this returns.
pub fn deaf_socket(ns: &Netns, address: &str, port: u16) -> Result<Background> {
    let socket = ns.spawn_argv(&[PYTHON, "-c", DEAF, address, &port.to_string()])?;
    wait_for("socket with a filter", Duration::from_secs(10), || {
        let bound = ns.sh(&format!("ss -Hunl sport = :{port}"))?;
        Ok((!bound.trim().is_empty()).then_some(()))
    })?;
    Ok(socket)
}
