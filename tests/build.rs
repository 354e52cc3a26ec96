//! Compiles the tests' own eBPF programs, as agent/build.rs compiles the agent's.
use std::path::Path;

fn main() -> anyhow::Result<()> {
    // Debian's rustc comes with `core` for BPF precompiled.
    let debian = Path::new("/usr/lib/rustlib/bpfel-unknown-none").exists();
    let toolchain = if debian { aya_build::Toolchain::Custom("/usr") } else { aya_build::Toolchain::default() };
    let package = aya_build::Package {
        name: "flowlogd-tests-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf"),
        ..Default::default()
    };
    aya_build::build_ebpf([package], toolchain)
}
