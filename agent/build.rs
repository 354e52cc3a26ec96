//! Compiles the eBPF programs with the toolchain `cargo xtask setup` found or installed. Never downloads.
use std::path::Path;

fn main() -> anyhow::Result<()> {
    // Debian's rustc comes with `core` for BPF precompiled.
    let debian = Path::new("/usr/lib/rustlib/bpfel-unknown-none").exists();
    let toolchain = if debian { aya_build::Toolchain::Custom("/usr") } else { aya_build::Toolchain::default() };
    let package = aya_build::Package {
        name: "agent-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf"),
        ..Default::default()
    };
    aya_build::build_ebpf([package], toolchain)
}
