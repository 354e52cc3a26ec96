//! Everything is in the library, where it can be tested.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("FLOWLOGD_LOG").unwrap_or_else(|_| "info".into()))
        .init();
    flowlogd::cli::main()
}
