//! One man page: of a command, from its help, and of the configuration file, from its commented default.
//! Must not know files or directories to write to.
//! Text of ours never becomes a formatter's request: all of it goes through `roff`, which escapes.
#![forbid(unsafe_code)]

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

const MANUAL: &str = "flowlogd manual";
const VERSION: &str = env!("CARGO_PKG_VERSION");

const FILES: [(&str, &str); 6] = [
    ("/etc/flowlogd/flowlogd.toml", "The configuration."),
    ("/etc/flowlogd/conf.d/*.toml", "More flow logs."),
    ("/var/lib/flowlogd", "Journal, spool, and the records of the default configuration."),
    ("/run/flowlogd/flowlogd.sock", "The agent answers status and metrics here."),
    ("/sys/fs/bpf/flowlogd", "Programs and counters that outlive the agent."),
    ("/usr/share/doc/flowlogd", "What is counted, how verdicts are told, delivery, metrics; examples."),
];

pub(super) fn command(command: clap::Command) -> Vec<u8> {
    let after_help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut related = vec!["flowlogd.toml(5)".to_owned()];
    let name = command.get_display_name().unwrap_or(command.get_name());
    if name != "flowlogd" {
        related.insert(0, "flowlogd(1)".to_owned());
    }
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    related.extend(shown.map(|sub| format!("{name}-{}(1)", sub.get_name())));
    let options = command.get_arguments().any(|arg| !arg.is_hide_set());
    let is_main = name == "flowlogd";
    // The sections below say it in the order of man-pages(7).
    let mut page = title(name, "1").into_bytes();
    let man = Man::new(command.after_help(None).after_long_help(None));
    // Writing to memory does not fail.
    let _ = man.render_name_section(&mut page);
    let _ = man.render_synopsis_section(&mut page);
    let _ = man.render_description_section(&mut page);
    if options {
        let _ = man.render_options_section(&mut page);
    }
    let mut rest = Roff::new();
    if is_main {
        rest.control("SH", ["FILES"]);
        for (path, about) in FILES {
            rest.control("TP", []).text([bold(path)]).text([roman(about)]);
        }
    }
    for (heading, text) in sections(&after_help) {
        rest.control("SH", [heading.as_str()]);
        verbatim(&mut rest, &text);
    }
    rest.control("SH", ["SEE ALSO"]).text([roman(related.join(", "))]);
    let _ = rest.to_writer(&mut page);
    page
}

pub(super) fn configuration() -> Vec<u8> {
    let mut page = Roff::new();
    page.control("SH", ["NAME"]).text([roman("flowlogd.toml - configuration of flowlogd")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Who this host says it is, and its flow logs: what is captured and where records go. It is TOML, and below is the \
         file as it is installed, with every key and its default. SIGHUP makes the agent read it again; flowlogd check \
         says what it means on this host.",
    )]);
    page.control("SH", ["KEYS"]);
    verbatim(&mut page, include_str!("../../../../systemd/flowlogd.toml"));
    page.control("SH", ["SEE ALSO"]).text([roman("flowlogd(1), flowlogd-check(1), flowlogd-run(1)")]);
    (title("flowlogd.toml", "5") + &page.render()).into_bytes()
}

/// Not by `roff`, which leaves out a date that is empty, and what follows would take its place.
fn title(name: &str, section: &str) -> String {
    format!(".TH \"{}\" \"{section}\" \"\" \"flowlogd {VERSION}\" \"{MANUAL}\"\n", name.to_uppercase())
}

/// Line by line as it is.
fn verbatim(page: &mut Roff, text: &str) {
    page.control("nf", []);
    for line in text.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

/// What follows a command's help: paragraphs that begin with `Heading:`, others belong to the one before.
fn sections(after_help: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for paragraph in after_help.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let first = paragraph.lines().next().unwrap_or_default();
        match first.split_once(':') {
            Some((heading, _)) if is_heading(heading) => {
                let text = paragraph.get(heading.len() + 1..).unwrap_or_default();
                sections.push((name(heading), dedented(text)));
            }
            _ => match sections.last_mut() {
                Some((_, text)) => *text += &format!("\n{}", dedented(paragraph)),
                None => sections.push(("NOTES".to_owned(), dedented(paragraph))),
            },
        }
    }
    sections
}

/// One or two words, such as `Examples` and `Exit codes`.
fn is_heading(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.split(' ').count() <= 2
        && text.chars().all(|c| c.is_ascii_alphabetic() || c == ' ')
}

/// As man-pages(7) calls it.
fn name(heading: &str) -> String {
    match heading {
        "Exit codes" => "EXIT STATUS".to_owned(),
        "Example" => "EXAMPLES".to_owned(),
        _ => heading.to_ascii_uppercase(),
    }
}

fn dedented(text: &str) -> String {
    let lines = text.trim_start_matches([' ', '\n']).lines();
    let lines = lines.map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::sections;

    #[test]
    fn help_becomes_sections() {
        let help = "Examples:\n  flowlogd run\n  flowlogd run \\\n      --x\n\nExit codes: 0 done.\n\nmore: of it";
        let of = |heading: &str, text: &str| (heading.to_owned(), text.to_owned());
        assert_eq!(
            sections(help),
            [of("EXAMPLES", "flowlogd run\nflowlogd run \\\n    --x\n"), of("EXIT STATUS", "0 done.\n\nmore: of it\n")]
        );
        assert_eq!(sections("as it is"), [of("NOTES", "as it is\n")]);
        assert_eq!(sections(""), []);
    }
}
