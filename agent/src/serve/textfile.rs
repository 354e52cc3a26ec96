//! Metrics as a file, for node_exporter's textfile collector: replaced as a whole, so that nobody reads half of one.
//! Must not know what is measured.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::Daemon;
use crate::metrics;

/// As often as most Prometheus servers ask.
const EVERY: Duration = Duration::from_secs(15);

/// Writes it anew, for ever. A failure is said once, until it works again.
pub(super) async fn keep(path: &Path, daemon: Daemon) {
    let mut is_failing = false;
    loop {
        // Without an answer the file grows old, which is what its reader goes by.
        if let Some(Ok(snapshot)) = daemon.snapshot().await {
            match write(path, &metrics::text(&snapshot)) {
                Ok(()) => is_failing = false,
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!("cannot write metrics to {}: {error}", path.display());
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Not synced: it is written anew before anybody would miss it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // The collector reads *.prom only.
    let temporary = path.with_added_extension("tmp");
    fs::write(&temporary, text)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))?;
    fs::rename(&temporary, path)
}
