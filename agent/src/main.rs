//! Everything is in the library, where it can be tested.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    flowlogd::cli::log::start();
    flowlogd::cli::main()
}
