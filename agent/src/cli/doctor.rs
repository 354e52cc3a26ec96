//! `flowlogd doctor`: one line per check, the fix beside what fails. Knows nothing of flow logs.
#![forbid(unsafe_code)]

use super::Failure;
use crate::doctor::{self, Verdict};
use std::io::IsTerminal as _;

pub(super) fn run() -> Result<(), Failure> {
    let colour = std::io::stdout().is_terminal();
    let mut fatal = false;
    for check in doctor::checks() {
        let (word, code) = match check.verdict {
            Verdict::Good => ("ok", "32"),
            Verdict::Limited => ("limited", "33"),
            Verdict::Bad => ("FAIL", "31"),
        };
        fatal |= check.verdict == Verdict::Bad;
        let word = if colour { format!("\x1b[{code}m{word:<7}\x1b[0m") } else { format!("{word:<7}") };
        println!("{word}  {:<14}  {}", check.name, check.found);
        if let Some(fix) = check.fix {
            println!("         {:<14}  -> {fix}", "");
        }
    }
    if fatal { Err(Failure::Silent) } else { Ok(()) }
}
