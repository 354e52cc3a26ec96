//! `flowlogd generate`: writes the man pages and completions that packages install. Hidden: who has a package has them.
//! Must not know where a system keeps such files, nor the day or the host.
//! The same binary always writes the same bytes.
#![forbid(unsafe_code)]

mod page;

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Directory that gets man/ and completions/
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let files = pages().into_iter().map(|(name, text)| (Path::new("man").join(name), text));
    let completions = completions().into_iter().map(|(name, text)| (Path::new("completions").join(name), text));
    for (name, text) in files.chain(completions) {
        write(&args.directory.join(name), &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| Failure::Run(format!("cannot write '{}': {error}", path.display())))
}

/// The command line as people see it: hidden subcommands would be completed otherwise.
fn command() -> clap::Command {
    let cli = Cli::command();
    let shown: Vec<clap::Command> = cli.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned().collect();
    let mut command = clap::Command::new("flowlogd").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    command = command.disable_help_subcommand(true).subcommand_required(true);
    command = command.about(cli.get_about().cloned().unwrap_or_default());
    command = command.long_about(cli.get_long_about().cloned().unwrap_or_default());
    command.after_help(cli.get_after_help().cloned().unwrap_or_default())
}

/// Without hidden flags, which bash's completion would name.
fn completed(command: &clap::Command) -> clap::Command {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
    let subs = command.get_subcommands().map(completed);
    let about = command.get_about().cloned().unwrap_or_default();
    // clap wants names that live for ever, and this process ends soon.
    let name: &'static str = command.get_name().to_owned().leak();
    clap::Command::new(name).about(about).args(args).subcommands(subs)
}

/// Name and text of each page, subcommands of subcommands included.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = command();
    // Gives subcommands their full names.
    command.build();
    let mut pages = vec![("flowlogd.toml.5".to_owned(), page::configuration())];
    let mut waiting = vec![command];
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned());
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        pages.push((format!("{name}.1"), page::command(command)));
    }
    pages
}

/// By the names that each shell looks for.
fn completions() -> Vec<(&'static str, Vec<u8>)> {
    let shells = [(Shell::Bash, "flowlogd"), (Shell::Zsh, "_flowlogd"), (Shell::Fish, "flowlogd.fish")];
    let generate = |(shell, name)| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut completed(&command()), "flowlogd", &mut text);
        (name, text)
    };
    shells.into_iter().map(generate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pages: &[(String, Vec<u8>)], name: &str) -> String {
        let page = pages.iter().find(|(other, _)| other == name);
        String::from_utf8(page.unwrap_or_else(|| panic!("no page {name}")).1.clone()).unwrap()
    }

    #[test]
    fn every_subcommand_has_a_page_with_examples() {
        let pages = pages();
        for sub in Cli::command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let page = text(&pages, &format!("flowlogd-{}.1", sub.get_name()));
            let examples = page.split_once(".SH EXAMPLES\n").map(|(_, after)| after);
            let examples = examples.unwrap_or_else(|| panic!("{}: no examples in its after_help", sub.get_name()));
            assert!(examples.contains(&format!("flowlogd {}", sub.get_name())), "{examples}");
            // Each is found from the first page.
            assert!(text(&pages, "flowlogd.1").contains(&format!("flowlogd\\-{}(1)", sub.get_name())));
        }
        assert!(text(&pages, "flowlogd.1").contains(".SH EXAMPLES\n"));
        assert!(!pages.iter().any(|(name, _)| name.contains("generate")));
    }

    #[test]
    fn pages_have_no_date() {
        for (name, page) in pages() {
            let page = String::from_utf8(page).unwrap();
            let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
            assert!(title.contains(" \"\" \"flowlogd "), "{name}: {title}");
        }
    }

    #[test]
    fn every_key_is_in_the_page_of_the_configuration() {
        let page = text(&pages(), "flowlogd.toml.5");
        for key in ["state\\-directory", "[[flow\\-log]]", "max\\-aggregation\\-interval"] {
            assert!(page.contains(key), "{key} is not in\n{page}");
        }
        // A line that begins with a dot or an apostrophe would be a request to the formatter.
        assert!(!page.lines().any(|line| line.starts_with('\'')));
    }

    #[test]
    fn completions_know_what_is_shown() {
        for (name, text) in completions() {
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("doctor") && text.contains("max-aggregation-interval"), "{name}");
            assert!(!text.contains("generate") && !text.contains("hold-drain"), "{name}");
        }
    }
}
