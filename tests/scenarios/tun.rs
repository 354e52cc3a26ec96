//! A device without Ethernet header: the records are what its user read and wrote.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Netns;
use flowlogd_tests::{Flow, Totals, UDP, python, records, wait_for};

const COUNT: u16 = 40;

/// Sends datagrams of growing size and reads each one's echo.
fn exchange(ns: &Netns, near: SocketAddr, far: SocketAddr) -> Result<()> {
    ns.enter(|| {
        let socket = UdpSocket::bind(near)?;
        socket.connect(far)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        for size in (0..COUNT).map(|number| usize::from(number) * 30) {
            socket.send(&vec![7; size])?;
            let got = socket.recv(&mut [0; 2048])?;
            ensure!(got == size, "{got} bytes of {size} came back");
        }
        Ok(())
    })
}

#[test]
fn both_directions() -> Result<()> {
    let ns = Netns::new()?;
    ns.ip_batch(
        "tuntap add mode tun name t0\n\
         link set t0 up\n\
         addr add 10.77.9.1/24 dev t0\n\
         addr add fd77:9::1/64 dev t0 nodad\n",
    )?;
    let echo = python::tun_echo(&ns, "t0", 2 * u64::from(COUNT))?;
    wait_for("reader of the tun device", Duration::from_secs(10), || {
        Ok(ns.ip("-o link show dev t0")?.contains("LOWER_UP").then_some(()))
    })?;
    let agent = Agent::start(&ns, &Options::on(&["t0"]))?;
    let ends: [(SocketAddr, SocketAddr); 2] = [
        ("10.77.9.1:40000".parse()?, "10.77.9.2:9000".parse()?),
        ("[fd77:9::1]:40000".parse()?, "[fd77:9::2]:9000".parse()?),
    ];
    for (near, far) in ends {
        exchange(&ns, near, far)?;
    }
    let text = echo.finish(Duration::from_secs(10))?;
    let counts: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let logged = records::by_flow(&stopped.records);
    ensure!(logged.keys().filter(|flow| flow.protocol == UDP).count() == 4, "{logged:?}");
    for ((near, far), counts) in ends.into_iter().zip(counts.chunks(2)) {
        let read = Totals { packets: counts[0], bytes: counts[1] };
        ensure!(read.packets == u64::from(COUNT), "the device carried {read}");
        for (src, dst) in [(near, far), (far, near)] {
            let (sport, dport) = (src.port(), dst.port());
            let flow = Flow { src: src.ip(), dst: dst.ip(), protocol: UDP, sport, dport };
            let totals = *logged.get(&flow).with_context(|| format!("no {flow:?} in {logged:?}"))?;
            ensure!(totals == read, "{flow:?}: carried {read}, logged {totals}");
        }
    }
    Ok(())
}
