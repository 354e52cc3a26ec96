//! On EC2 the agent is who the instance is, asked by version 2 of the metadata service; elsewhere it waits for nobody.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::imds::{Imds, Instance, Interface};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::traffic;

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
    ensure!(!stopped.records.is_empty(), "no records");
    let (account, id) = ("210987654321", "eni-0fedcba9876543210");
    let other =
        stopped.records.iter().find(|record| (record.account.as_str(), record.interface.as_str()) != (account, id));
    ensure!(other.is_none(), "{other:?}");
    ensure!(imds.without_token() == 0, "{} requests without a token", imds.without_token());
    Ok(())
}

#[test]
fn a_metadata_service_that_never_answers_is_not_waited_for() -> Result<()> {
    let pair = Pair::new()?;
    // What is sent there is never answered, and never refused.
    pair.a.ip("route add 169.254.169.254 via 10.77.0.2 dev a0")?;
    pair.b.run(&["nft", "add table ip hole"])?;
    pair.b.run(&["nft", "add chain ip hole in { type filter hook prerouting priority raw; }"])?;
    pair.b.run(&["nft", "add rule ip hole in ip daddr 169.254.169.254 counter drop"])?;
    let agent = Agent::start(&pair.a, &on_ec2())?;
    agent.wait_said("instance metadata: no answer within 1 s")?;
    let rules = pair.b.run(&["nft", "list", "table", "ip", "hole"])?;
    ensure!(!rules.contains("packets 0 "), "it was not asked");
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(stopped.records.iter().all(|record| record.account == "000000000000"), "{:?}", stopped.records);
    Ok(())
}
