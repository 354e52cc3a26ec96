//! `flowlogd detach` removes what a killed agent left, and nothing of a running one.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, binary, output, refusal};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::python;

fn removes(hook: &str, what: &[&str]) -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    let before = pair.a.sh("tc qdisc show dev a0")?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).pins_in(&pins).args("--attach").args(hook))?;
    let (state, directory) = (agent.state_directory().to_owned(), pins.directory());
    let [state, directory] = [&state, &directory].map(|path| path.to_str().expect("path"));
    let args = ["detach", "--bpf-directory", directory, "--state-directory", state];
    let refused = refusal(&pair.a, &[], &binary()?, &args)?;
    ensure!(refused.code == Some(1) && refused.stderr.len() == 1, "{refused:?}");
    // The same agent by its pins alone.
    let refused = refusal(&pair.a, &[], &binary()?, &["detach", "--bpf-directory", directory])?;
    ensure!(refused.code == Some(1) && refused.stderr.len() == 1, "{refused:?}");
    agent.kill()?;
    let lines = output(&pair.a, &args)?;
    for what in what {
        let said = lines.iter().filter(|line| line.starts_with("removed ") && line.contains(what)).count();
        ensure!(said == 1, "{what}: {lines:?}");
    }
    ensure!(lines.len() == what.len(), "{lines:?}");
    ensure!(python::tcx_programs(&pair.a, "a0")? == (0, 0), "still attached");
    ensure!(pair.a.sh("tc qdisc show dev a0")? == before, "not the qdiscs that were there");
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    let lines = output(&pair.a, &args)?;
    ensure!(lines.len() == 1 && lines[0].contains("nothing to remove"), "{lines:?}");
    Ok(())
}

/// Whatever the hook.
const COMMON: [&str; 5] = [
    "program drop_before on kfree_skb",
    "program drop_first on kfree_skb",
    "program drop_second on kfree_skb",
    "counters of the agent",
    "shared maps",
];

#[test]
fn links() -> Result<()> {
    removes("tcx", &[&["program at ingress of a0", "program at egress of a0"], &COMMON[..]].concat())
}

#[test]
fn filters() -> Result<()> {
    let own = ["filter at ingress of a0", "filter at egress of a0", "clsact qdisc of a0"];
    removes("clsact", &[&own, &COMMON[..]].concat())
}
