//! `[metrics]`: where Prometheus finds what is measured. Off unless it is said.
//! Always: nobody from another host.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::place::ConfigError;
use super::section::Section;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    pub(crate) listen: Option<Listen>,
    pub(crate) textfile: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Loopback(SocketAddr),
    Socket(PathBuf),
}

impl Metrics {
    pub(super) fn build(section: &Section) -> Result<Self, ConfigError> {
        let listen = section.text("listen")?.map(|text| Listen::parse(&text));
        let listen = listen.transpose().map_err(|why| section.error("listen", why))?;
        let textfile = section.text("textfile")?.map(PathBuf::from);
        if let Some(path) = &textfile {
            if !path.is_absolute() {
                return Err(section.error("textfile", format_args!("{} is not an absolute path", path.display())));
            }
            if path.extension().is_none_or(|extension| extension != "prom") {
                let why = format_args!("{} must end in .prom, or the collector leaves it out", path.display());
                return Err(section.error("textfile", why));
            }
        }
        Ok(Self { listen, textfile })
    }
}

impl Listen {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").map(PathBuf::from) {
            let is_absolute = path.is_absolute();
            return if is_absolute { Ok(Self::Socket(path)) } else { Err(format!("{text} has no absolute path")) };
        }
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let local = local.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let shape =
            || format!("{text:?} must be a loopback address with a port, such as 127.0.0.1:9995, or unix:/path");
        let address = local.or_else(|| text.parse().ok()).ok_or_else(shape)?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{text} can be reached from other hosts; allowed are loopback addresses and unix:/path, which a proxy \
                 with TLS can stand before"
            ));
        }
        Ok(Self::Loopback(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host() {
        for (text, want) in [
            ("127.0.0.1:9995", Some(Listen::Loopback(([127, 0, 0, 1], 9995).into()))),
            ("localhost:9995", Some(Listen::Loopback(([127, 0, 0, 1], 9995).into()))),
            ("[::1]:9995", Some(Listen::Loopback("[::1]:9995".parse().unwrap()))),
            ("unix:/run/flowlogd/metrics.sock", Some(Listen::Socket("/run/flowlogd/metrics.sock".into()))),
            ("unix:metrics.sock", None),
            ("0.0.0.0:9995", None),
            ("[::]:9995", None),
            ("10.0.0.1:9995", None),
            ("127.0.0.1", None),
            (":9995", None),
        ] {
            assert_eq!(Listen::parse(text).ok(), want, "{text}");
        }
    }
}
