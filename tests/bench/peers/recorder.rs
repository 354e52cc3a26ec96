//! The recorders: how each is started, ended, and asked how many packets of the flood it has recorded.
//!
//! All hold a flow once in memory and write it at the end. The peers get what their manuals advise for heavy traffic:
//! tables that hold every flow, large buffers.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::{UDP, records};
use nix::sys::socket::{setsockopt, sockopt};
use tempfile::TempDir;

use super::netflow5;
use super::process::Process;

pub(crate) const NAMES: [&str; 3] = ["flowlogd", "softflowd", "pmacctd"];

/// Kernel buffers of those that capture packets.
pub(crate) const CAPTURE_MIB: usize = 16;
const DEVICE: &str = "b0";
const CONTROL: &str = "control";
const COLUMNS: &str = "SRC_IP,DST_IP,SRC_PORT,DST_PORT,PROTOCOL,PACKETS,BYTES";

#[derive(Debug)]
pub(crate) enum Recorder {
    Flowlogd(Agent),
    Softflowd(Softflowd),
    Pmacctd(Process),
}

#[derive(Debug)]
pub(crate) struct Softflowd {
    process: Process,
    /// Where it exports to.
    export: UdpSocket,
    /// Holds its control socket.
    directory: TempDir,
}

impl Recorder {
    pub(crate) fn start(name: &str, ns: &Netns) -> Result<Self> {
        match name {
            "flowlogd" => Ok(Self::Flowlogd(Agent::start(ns, &Options::on(&[DEVICE]).to_stdout().interval(60))?)),
            "softflowd" => Ok(Self::Softflowd(Softflowd::start(ns)?)),
            "pmacctd" => pmacctd(ns),
            _ => bail!("no recorder is called {name}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Flowlogd(agent) => agent.pid(),
            Self::Softflowd(softflowd) => softflowd.process.pid(),
            Self::Pmacctd(process) => process.pid(),
        }
    }

    /// Ends it the way its manual says writes all flows, and returns how many packets are in them.
    pub(crate) fn stop(self) -> Result<u64> {
        match self {
            Self::Flowlogd(agent) => {
                let flows = records::by_flow(&agent.stop()?.records);
                let target: IpAddr = Pair::B4.parse()?;
                let of_flood = flows.iter().filter(|(flow, _)| flow.protocol == UDP && flow.dst == target);
                Ok(of_flood.map(|(_, totals)| totals.packets).sum())
            }
            Self::Softflowd(softflowd) => softflowd.stop(),
            Self::Pmacctd(process) => {
                process.interrupt()?;
                printed(&process.finish(0)?)
            }
        }
    }
}

impl Softflowd {
    fn start(ns: &Netns) -> Result<Self> {
        let export = ns.enter(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        // Holds the whole export, so that nothing has to read while it is written.
        setsockopt(&export, sockopt::RcvBufForce, &(64 << 20))?;
        export.set_nonblocking(true)?;
        let directory = TempDir::new()?;
        let control = directory.path().join(CONTROL);
        let control = control.to_str().context("temporary path")?;
        let (target, buffer) = (export.local_addr()?.to_string(), (CAPTURE_MIB << 20).to_string());
        // In the foreground.
        let argv =
            ["softflowd", "-d", "-c", control, "-i", DEVICE, "-v", "5", "-n", &target, "-m", "131072", "-B", &buffer];
        Ok(Self { process: Process::start(ns, &argv, "")?, export, directory })
    }

    /// As `softflowctl shutdown` does; in the foreground it takes no signals. Then it ends with 1 when all is well.
    fn stop(self) -> Result<u64> {
        let mut control = UnixStream::connect(self.directory.path().join(CONTROL))?;
        control.write_all(b"shutdown\n")?;
        control.read_to_string(&mut String::new())?;
        self.process.finish(1)?;
        exported(&self.export)
    }
}

fn exported(export: &UdpSocket) -> Result<u64> {
    let mut sum = netflow5::Sum::new(Pair::B4.parse()?);
    let mut datagram = [0; 2048];
    loop {
        match export.recv(&mut datagram) {
            Ok(len) => sum.add(&datagram[..len])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sum.packets),
            Err(error) => return Err(error.into()),
        }
    }
}

fn pmacctd(ns: &Netns) -> Result<Recorder> {
    // The default table holds 150,000 flows. Between its two processes: 1:1000, as its manual advises.
    let configuration = format!(
        "pcap_interface: {DEVICE}\n\
         pmacctd_pipe_size: {}\n\
         aggregate: src_host, dst_host, src_port, dst_port, proto\n\
         plugins: print\n\
         plugin_pipe_size: 67108864\n\
         plugin_buffer_size: 65536\n\
         print_output: csv\n\
         print_num_protos: true\n\
         print_refresh_time: 3600\n",
        CAPTURE_MIB << 20,
    );
    Ok(Recorder::Pmacctd(Process::start(ns, &["pmacctd", "-f", "/dev/stdin"], &configuration)?))
}

/// Sums what pmacctd has printed; notices stand between its lines.
fn printed(text: &str) -> Result<u64> {
    let mut lines = text.lines().skip_while(|line| *line != COLUMNS);
    lines.next().with_context(|| format!("pmacctd printed no heading {COLUMNS}"))?;
    let mut packets = 0;
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        if let [_, Pair::B4, _, _, "17", count, _] = fields.as_slice() {
            packets += count.parse::<u64>().with_context(|| format!("pmacctd printed `{line}`"))?;
        }
    }
    Ok(packets)
}
