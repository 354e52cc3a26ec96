//! On EC2 the agent is who the instance is, asked by version 2 of the metadata service; elsewhere it waits for nobody.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{self, Agent, Options};
use flowlogd_tests::imds::{Imds, Instance, Interface};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records::Record;
use flowlogd_tests::traffic;
use tempfile::TempDir;

fn instance() -> Instance {
    Instance {
        account_id: "210987654321".to_owned(),
        region: "eu-west-1".to_owned(),
        az: "eu-west-1a".to_owned(),
        az_id: "euw1-az1".to_owned(),
        instance_id: "i-0123456789abcdef0".to_owned(),
        interfaces: vec![Interface {
            // Of a0 in a pair.
            mac: "02:00:00:77:00:01".to_owned(),
            id: "eni-0fedcba9876543210".to_owned(),
            vpc_id: "vpc-0123456789abcdef0".to_owned(),
            // Its third address, of the DNS server, is no host's here.
            vpc_cidrs: vec!["10.64.0.0/10".to_owned()],
            subnet_id: "subnet-0123456789abcdef0".to_owned(),
            subnet_cidr: "10.77.9.0/24".to_owned(),
        }],
    }
}

/// This machine's firmware does not say that it is an instance, and so the agent has to be told where to ask.
fn on_ec2() -> Options {
    Options::on(&["a0"]).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")
}

#[test]
fn an_instance_is_known_from_its_metadata() -> Result<()> {
    let pair = Pair::new()?;
    let imds = Imds::start(&pair.a, &instance())?;
    let agent = Agent::start(&pair.a, &on_ec2())?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    expect_of_instance(&stopped.records, "eni-0fedcba9876543210")?;
    ensure!(imds.without_token() == 0, "{} requests without a token", imds.without_token());
    Ok(())
}

/// Fails unless every record, and there is one, is the instance's.
fn expect_of_instance(records: &[Record], interface_id: &str) -> Result<()> {
    ensure!(!records.is_empty(), "no records");
    let wanted = ("210987654321", interface_id);
    let other = records.iter().find(|record| (record.account.as_str(), record.interface.as_str()) != wanted);
    ensure!(other.is_none(), "{other:?}");
    Ok(())
}

/// The service is reached, and says nothing: what is sent there is never answered, and never refused.
fn mute(pair: &Pair) -> Result<()> {
    pair.a.ip("route add 169.254.169.254 via 10.77.0.2 dev a0")?;
    pair.b.run(&["nft", "add table ip hole"])?;
    pair.b.run(&["nft", "add chain ip hole in { type filter hook prerouting priority raw; }"])?;
    pair.b.run(&["nft", "add rule ip hole in ip daddr 169.254.169.254 counter drop"])?;
    Ok(())
}

/// The agent starts before the network does.
#[test]
fn an_instance_is_known_from_its_last_answer() -> Result<()> {
    let (pair, state) = (Pair::new()?, TempDir::new()?);
    let options = on_ec2().state_in(state.path());
    let imds = Imds::start(&pair.a, &instance())?;
    Agent::start(&pair.a, &options)?.stop()?;
    drop(imds);
    mute(&pair)?;
    let agent = Agent::start(&pair.a, &options)?;
    agent.wait_said("instance metadata: no answer yet; goes by the last one")?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    expect_of_instance(&stopped.records, "eni-0fedcba9876543210")
}

#[test]
fn nobody_is_made_up_on_an_instance() -> Result<()> {
    let (pair, state) = (Pair::new()?, TempDir::new()?);
    mute(&pair)?;
    let state = state.path().display().to_string();
    let wrapper = ["env", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://169.254.169.254"];
    let args = ["run", "--interface", "a0", "--state-directory", &state];
    let refusal = agent::refusal(&pair.a, &wrapper, &agent::binary()?, &args)?;
    let said = "flowlogd: instance metadata: no answer within 1 s: try again when the network is up, or set account-id \
                and region";
    ensure!(refusal.code == Some(1) && refusal.stderr == [said], "{refusal:?}");
    let rules = pair.b.run(&["nft", "list", "table", "ip", "hole"])?;
    ensure!(!rules.contains("packets 0 "), "it was not asked");
    Ok(())
}

/// A configured instance does not wait for the service, and goes by its ids once it answers.
#[test]
fn interfaces_get_their_ids_when_the_service_answers() -> Result<()> {
    let pair = Pair::new()?;
    mute(&pair)?;
    let agent = Agent::start(&pair.a, &on_ec2().args("--account-id 210987654321 --region eu-west-1"))?;
    agent.wait_said("what is not configured is made up until it answers")?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let _imds = Imds::start(&pair.a, &instance())?;
    agent.wait_said("known by its id now")?;
    traffic::ping(&pair.a, Pair::B4, 3)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let packets = |is_of_ec2: bool| -> u64 {
        let of = stopped.records.iter().filter(|record| (record.interface == "eni-0fedcba9876543210") == is_of_ec2);
        of.filter_map(Record::flow).map(|(_, totals)| totals.packets).sum()
    };
    // The request and the reply of each; the address of the service is logged by nobody.
    ensure!(packets(false) + packets(true) == 10 && packets(true) >= 6, "{:?}", stopped.records);
    Ok(())
}

/// As containers' networks and `aws ec2 attach-network-interface` do it.
#[test]
fn an_interface_that_comes_later_has_its_id() -> Result<()> {
    let (pair, mut instance) = (Pair::new()?, instance());
    let first = Imds::start(&pair.a, &instance)?;
    let agent = Agent::start(&pair.a, &Options { interfaces: vec!["a*".to_owned()], ..on_ec2() })?;
    drop(first);
    let (mac, id) = ("02:00:00:77:01:01".to_owned(), "eni-00000000000000002".to_owned());
    let second = Interface { mac, id, ..instance.interfaces[0].clone() };
    instance.interfaces.push(second);
    let _imds = Imds::start(&pair.a, &instance)?;
    pair.add_link("a1", "b1", 1)?;
    agent.wait_said("known by its id now")?;
    traffic::ping(&pair.a, "10.77.1.2", 2)?;
    let mut stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    // What the interface itself says when it comes up is before that.
    stopped.records.retain(|record| record.flow().is_some_and(|(flow, _)| flow.protocol == 1));
    expect_of_instance(&stopped.records, "eni-00000000000000002")
}
