//! Files: those beside the configuration, who may read them, and the one that is shipped.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn flow_logs_beside_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("flowlogd.toml");
    let beside = directory.path().join("conf.d");
    fs::create_dir(&beside).unwrap();
    write(&main, "[host]\nregion = \"eu-west-1\"\n", 0o644);
    let error = read_as_here(&main).unwrap_err().to_string();
    assert_eq!(error, format!("{}: no flow log is configured; add a [[flow-log]] table", main.display()));
    write(&beside.join("b.toml"), STDOUT, 0o644);
    write(&beside.join("a.toml"), &format!("{STDOUT}interfaces = [\"a\"]\n"), 0o644);
    write(&beside.join(".a.toml.swp.toml"), "rubbish", 0o644);
    write(&beside.join("a.toml.bak"), "rubbish", 0o644);
    let config = read_as_here(&main).unwrap();
    assert_eq!(config.logs.iter().map(|log| log.selection.globs.len()).collect::<Vec<_>>(), [1, 0]);
    write(&beside.join("c.toml"), "\n[agent]\n", 0o644);
    let error = read_as_here(&main).unwrap_err().to_string();
    let place = beside.join("c.toml");
    let why = "belongs in the file beside conf.d; here are only [[flow-log]] tables";
    assert_eq!(error, format!("{}:2: key agent: {why}", place.display()));
    let missing = directory.path().join("x/flowlogd.toml");
    let error = read_as_here(&missing).unwrap_err().to_string();
    assert_eq!(error, format!("{}: cannot be read: No such file or directory (os error 2)", missing.display()));
}

#[test]
fn secrets_that_others_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flowlogd.toml");
    let log = "[[flow-log]]\nlog-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs\"\n";
    let text = format!("{log}endpoint-url = \"https://user:hunter2@host\"\n");
    write(&path, &text, 0o640);
    let config = read_as_here(&path).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let shown = serde_json::to_string(&describe::Description::of(&config.logs[0], &config.host)).unwrap();
    assert!(shown.contains("https://host") && !shown.contains("hunter2"), "{shown}");
    write(&path, &text, 0o644);
    let config = read_as_here(&path).unwrap();
    let place = path.display();
    let warning = "holds a password that every user of this host can read: chmod o-r";
    assert_eq!(config.warnings, [format!("{place}:4: key flow-log.endpoint-url: {warning} {place}")]);

    write(&path, &format!("{log}aws-secret-access-key = \"hunter2\"\n"), 0o644);
    let error = read_as_here(&path).unwrap_err().to_string();
    let why = "credentials do not belong here, use the AWS credential chain: profile, environment, credential_process or \
               instance role; others can read this file: replace them, and chmod o-r";
    assert_eq!(error, format!("{place}:4: key flow-log.aws-secret-access-key: {why} {place}"));
    write(&path, &format!("AWS_SECRET_ACCESS_KEY = \"hunter2\"\n{log}"), 0o600);
    let error = read_as_here(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{place}:1: key AWS_SECRET_ACCESS_KEY: credentials do not")), "{error}");
    assert!(!error.contains("hunter2") && !error.contains("chmod"), "{error}");
}

const EXAMPLE: &str = include_str!("../../../../systemd/flowlogd.toml");

/// With all that can be taken in.
fn taken_in() -> String {
    let take = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    EXAMPLE.lines().map(take).collect()
}

#[test]
fn the_example_is_valid() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.logs.len(), 1);
    let whole = parse(&taken_in()).unwrap();
    assert_eq!(whole.logs.len(), 4);
    assert_eq!(whole.logs[0].spool_bytes_max, parse(EXAMPLE).unwrap().logs[0].spool_bytes_max);
    assert_eq!(
        whole.agent,
        Agent {
            socket: Some("/run/flowlogd/flowlogd.sock".into()),
            bpf_directory: Some("/sys/fs/bpf/flowlogd".into()),
            ..whole.agent.clone()
        }
    );
}

#[test]
fn the_example_has_every_key() {
    let path = Path::new("flowlogd.toml");
    let mut tables = Tables::empty(path);
    file::parse(&mut tables, path, &taken_in(), true).unwrap();
    for (name, section) in [
        ("host", &tables.host),
        ("spool", &tables.spool),
        ("exclusions", &tables.exclusions),
        ("agent", &tables.agent),
        ("metrics", &tables.metrics),
    ] {
        for key in keys::of(name) {
            assert!(section.has(key), "{name}.{key}");
        }
    }
    for key in keys::of("flow-log") {
        assert!(tables.logs.iter().any(|log| log.has(key)), "flow-log.{key}");
    }
}
