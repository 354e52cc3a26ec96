//! Which drop reasons are a policy's: REJECT. The documented table, by the kernel's names without their prefix
//! (include/net/dropreason-core.h). A reason that is not here, or none given, is never REJECT: a false REJECT costs
//! more trust than a missed one.
//! Knows nothing of maps.
#![forbid(unsafe_code)]

use agent_common::drop::Class;

/// `enum skb_drop_reason`'s prefix.
pub(crate) const PREFIX: &str = "SKB_DROP_REASON_";
/// The enum itself.
pub(crate) const ENUM: &str = "skb_drop_reason";

/// Name, class, and why.
pub(crate) const POLICY: [(&str, Class, &str); 7] = [
    (
        "NETFILTER_DROP",
        Class::Policy,
        "nftables, iptables, firewalld, ipvs: a verdict of a hook (net/netfilter/core.c)",
    ),
    ("IP_RPFILTER", Class::Policy, "reverse-path filter: the source may not come from here (net/ipv4/fib_frontend.c)"),
    ("SOCKET_FILTER", Class::Policy, "a filter on the socket or the cgroup's ingress program (net/core/filter.c)"),
    ("BPF_CGROUP_EGRESS", Class::Policy, "the cgroup's egress program (net/ipv4/ip_output.c)"),
    ("TC_INGRESS", Class::Policy, "an action or program at TC ingress, behind ours (net/core/dev.c)"),
    ("TC_EGRESS", Class::BehindEgress, "an action or program at TC egress, behind ours (net/core/dev.c)"),
    (
        "XDP",
        Class::BeforeIngress,
        "XDP on a packet of the stack, before TC ingress, where the kernel says so: Linux 6.18 frees most without a reason",
    ),
];

/// The class of a name with or without its prefix.
pub(crate) fn class(name: &str) -> Class {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    POLICY.iter().find(|(policy, ..)| *policy == name).map_or(Class::Other, |(_, class, _)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_table_knows_is_a_policys() {
        assert_eq!(class("SKB_DROP_REASON_NETFILTER_DROP"), Class::Policy);
        assert_eq!(class("XDP"), Class::BeforeIngress);
        for name in ["", "SKB_DROP_REASON_NOT_SPECIFIED", "NO_SOCKET", "SOCKET_RCVBUFF", "IP_INHDR", "SOMETHING_NEW"] {
            assert_eq!(class(name), Class::Other, "{name}");
        }
    }
}
