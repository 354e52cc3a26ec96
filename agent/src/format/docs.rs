//! `docs/fields.md`, made of the table.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::FIELDS;

pub(super) fn markdown() -> String {
    let mut text = String::from(HEAD);
    for field in FIELDS {
        let version = if field.version == 0 { "ours".to_owned() } else { field.version.to_string() };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{}` | {version} | {} | {} |", field.name, field.kind.name(), field.help);
    }
    text + TAIL
}

const HEAD: &str = "\
# Fields

Generated from the table in `agent/src/format/table.rs`; a test fails when the two differ, and says how to write this
file anew. `flowlogd fields` prints the same.

A flow log's `log-format` names its fields as AWS does: `${field}`, one space between, each once.

    [[flow-log]]
    log-format = \"${version} ${interface-id} ${srcaddr} ${dstaddr} ${tcp-flags} ${flow-direction} ${log-status}\"

Without it a record has AWS's default, the fourteen fields of version 2. What is not applicable or not known is `-`, as in
AWS. NODATA and SKIPDATA keep what is known of the host and the interface, but for `instance-id`, as AWS's do; all that is of
a flow is `-`. The type is that of AWS's column in Parquet, whose name has `_` for `-`.

`flowlogd check` names programs that are known to refuse a format, or to read it in part.

| field | version | type | |
|---|---|---|---|
";

const TAIL: &str = "
## Where values are configured

    [host]
    vpc-id = \"vpc-0123456789abcdef0\"
    traffic-path = 8
    ip-ranges = \"/var/lib/flowlogd/ip-ranges.json\"     # https://ip-ranges.amazonaws.com/ip-ranges.json
    labels = { role = \"web server\", team = \"payments\" }
    interface-labels = { eth0 = { network = \"dmz\" } }

    [[flow-log]]
    tag-field-specifications = { instance = [\"role\", \"team\"], network-interface = [\"network\"] }
    address-rewriting = \"aws\"

- **Services.** The longest prefix decides; of several services on one prefix the one that says most, so AMAZON only where
  nothing else is, and EC2 before that. The agent reads the file again when it changes. One that is broken is said once, and
  what was known goes on.
- **Tags.** Everything but letters, digits and `-._~` is percent-encoded UTF-8, so that no value has a space:
  `web%20server`.
- **Addresses.** By default `srcaddr` and `dstaddr` are the packet's own. AWS shows the interface's primary private address
  instead of the interface's own end, also of what it only forwards; `address-rewriting = \"aws\"` does that, for IPv4:
  the destination of what comes in, the source of what goes out. Broadcast and multicast are destinations like any other.
  `pkt-srcaddr` and `pkt-dstaddr` are the packet's own always. Flows are told apart by the packet's own addresses: with
  version-2 fields alone two of them can look alike.

## Not fields here

Those of transit gateway flow logs (version 6: `tgw-id`, `packets-lost-no-route` and others) are refused: a host is no
transit gateway.
";
