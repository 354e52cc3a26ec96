//! Draws `docs/pictures`: what `flowlogd top` and `flowlogd status` print about real traffic between two namespaces.
//! Always: everything that it started or made is gone when it returns, also after an error.
mod svg;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{need_root, root, run, setup, target_dir};

const PACKAGES: [&str; 5] = ["iproute2", "iperf3", "iputils-ping", "nftables", "tmux"];
const LIMIT: Duration = Duration::from_secs(120);
/// Columns and rows of the terminal.
const TOP: [&str; 2] = ["104", "18"];
const STATUS: [&str; 2] = ["190", "40"];
/// Addresses of documentation (RFC 5737): the host, and those who talk to it.
const HOST: &str = "198.51.100.10";
const CLIENTS: [&str; 4] = ["198.51.100.21", "198.51.100.22", "198.51.100.37", "198.51.100.54"];

/// Files, namespaces, processes and a tmux server of ours.
struct Scene {
    name: String,
    directory: PathBuf,
    children: Vec<Child>,
}

pub(crate) fn draw() -> Result<()> {
    need_root("cargo xtask picture")?;
    setup::packages(&PACKAGES)?;
    let agent = match env::var_os("FLOWLOGD_BIN") {
        Some(path) => PathBuf::from(path).canonicalize().context("FLOWLOGD_BIN")?,
        None => {
            run::build(true)?;
            target_dir().join("release/flowlogd")
        }
    };
    let agent = agent.to_str().context("the agent's path")?.to_owned();
    let name = format!("flpicture{}", std::process::id());
    let mut scene = Scene { directory: env::temp_dir().join(&name), name, children: Vec::new() };
    fs::create_dir(&scene.directory)?;
    scene.hosts()?;
    scene.agent(&agent)?;
    scene.traffic()?;
    let state = scene.path("state");
    let busy = |screen: &str| screen.matches("REJECT").count() > 2 && screen.matches("MiB").count() > 2;
    let top = scene.screen("top", TOP, &format!("{agent} top --state-directory {state}"), busy)?;
    // A window of each flow log is delivered.
    let delivered = |screen: &str| screen.contains("nothing lost") && !screen.contains("never");
    let status = scene.screen(
        "status",
        STATUS,
        &format!("while {agent} status --state-directory {state}; do sleep 2; clear; done"),
        delivered,
    )?;
    for (name, title, screen) in [("top", "flowlogd top", top), ("status", "flowlogd status", status)] {
        let path = root().join(format!("docs/pictures/{name}.svg"));
        fs::write(&path, svg::render(title, &screen))?;
        println!("{}", path.display());
    }
    Ok(())
}

impl Scene {
    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// In the namespace of the clients or of the host.
    fn inside(&self, side: &str, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}{side}", self.name)).args(["sh", "-c", &format!("exec {line}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn spawn(&mut self, side: &str, line: &str) -> Result<()> {
        let child = self.inside(side, line).spawn().with_context(|| line.to_owned())?;
        self.children.push(child);
        Ok(())
    }

    fn hosts(&self) -> Result<()> {
        let name = &self.name;
        let mut lines = vec![
            format!("ip netns add {name}c"),
            format!("ip netns add {name}h"),
            format!("ip link add eth0 netns {name}h address 02:00:00:00:51:10 type veth peer name eth0 netns {name}c"),
            format!("ip -n {name}h addr add {HOST}/24 dev eth0"),
            format!("ip -n {name}h link set lo up"),
            format!("ip -n {name}h link set eth0 up"),
            format!("ip -n {name}c link set eth0 up"),
        ];
        lines.extend(CLIENTS.map(|client| format!("ip -n {name}c addr add {client}/24 dev eth0")));
        let rules = "add table inet filter; add chain inet filter input { type filter hook input priority 0; }; \
                     add rule inet filter input tcp dport { 22, 3389, 6379 } drop";
        lines.push(format!("ip netns exec {name}h nft '{rules}'"));
        for line in lines {
            let output = Command::new("sh").args(["-c", &line]).output()?;
            ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn agent(&mut self, program: &str) -> Result<()> {
        let (config, state, srv) = (self.path("flowlogd.toml"), self.path("state"), self.path("srv"));
        let log = |traffic: &str, to: &str| {
            format!(
                "[[flow-log]]\nmax-aggregation-interval = 60\ntraffic-type = \"{traffic}\"\nobject-interval = 0\n\
                 log-destination-type = \"directory\"\nlog-destination = \"/srv/{to}\"\n"
            )
        };
        fs::write(&config, log("ALL", "flow-logs") + &log("REJECT", "refused"))?;
        fs::create_dir(&state)?;
        fs::create_dir(&srv)?;
        // Where it pins and where it writes is its own alone, and goes with it.
        let mounts = format!("mount -t bpf none /sys/fs/bpf && mount --bind {srv} /srv");
        let run = format!("exec {program} run --config {config} --state-directory {state}");
        self.spawn("h", &format!("unshare --mount sh -c '{mounts} && {run}'"))?;
        let socket = self.directory.join("state/flowlogd.sock");
        wait("the agent", || Ok(socket.exists().then_some(())))
    }

    fn traffic(&mut self) -> Result<()> {
        let [web, backup, video, scanner] = CLIENTS;
        for port in [443, 5001, 8443] {
            self.spawn("h", &format!("iperf3 -s -p {port}"))?;
        }
        for (client, port, how) in [(web, 443, "-b 9M"), (backup, 5001, "-b 60M"), (video, 8443, "-u -b 14M -R")] {
            // The server may not listen yet.
            self.spawn(
                "c",
                &format!("sh -c 'until iperf3 -c {HOST} -B {client} -p {port} {how} -t 300; do sleep 0.2; done'"),
            )?;
        }
        self.spawn("c", &format!("ping -q -i 0.2 -I {web} {HOST}"))?;
        // Nobody answers: the kernel tries again.
        for port in [22, 3389, 6379] {
            let connect = format!(
                "python3 -c 'import socket,time\nwhile 1:\n s=socket.socket(); s.bind((\"{scanner}\",0)); s.settimeout(0.4)\n try: s.connect((\"{HOST}\",{port}))\n except OSError: pass\n s.close()'"
            );
            self.spawn("c", &connect)?;
        }
        Ok(())
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let output = Command::new("tmux").args(["-L", &self.name, "-f", "/dev/null"]).args(args).output()?;
        ensure!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a terminal shows of a command, with its colours, once it is as wanted.
    fn screen(
        &self,
        name: &str,
        [columns, rows]: [&str; 2],
        line: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        // A host's name that says nothing of where it was drawn.
        let line = format!("unshare --uts sh -c 'echo edge-1 >/proc/sys/kernel/hostname; {line}'");
        self.tmux(&["new-session", "-d", "-s", name, "-x", columns, "-y", rows, &line])?;
        let mut last = String::new();
        let screen = wait("such a screen", || {
            last = self.tmux(&["capture-pane", "-p", "-t", name])?;
            if is_wanted(&last) { self.tmux(&["capture-pane", "-p", "-e", "-t", name]).map(Some) } else { Ok(None) }
        });
        screen.with_context(|| format!("the last one was\n{last}"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.tmux(&["kill-server"]);
        for side in ["c", "h"] {
            let name = format!("{}{side}", self.name);
            // What a shell of ours had started.
            let pids = Command::new("ip").args(["netns", "pids", &name]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            let _ = Command::new("kill").arg("-9").args(pids.split_whitespace()).stderr(Stdio::null()).status();
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn wait<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("no {what} within {:?}", LIMIT);
        }
        thread::sleep(Duration::from_millis(100));
    }
}
