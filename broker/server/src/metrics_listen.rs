//! The setting that says where metrics and health are served.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Where metrics and health are served over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MetricsListen {
    /// At the loopback address, at the TCP port whose number is that of `listen`.
    Loopback,
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

impl MetricsListen {
    /// The address to bind when clients are served at `listen`; `None` when it is off.
    pub fn address(self, listen: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
            Self::Loopback if listen.is_ipv4() => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port()))),
            Self::Loopback => Some(SocketAddr::from((Ipv6Addr::LOCALHOST, listen.port()))),
        }
    }
}

impl std::fmt::Display for MetricsListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Off => f.write_str("off"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

impl std::str::FromStr for MetricsListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "off" => Ok(Self::Off),
            address => match address.parse() {
                Ok(address) => Ok(Self::At(address)),
                Err(_) => Err(format!("\"{address}\" is not \"loopback\", \"off\" or an address with its port")),
            },
        }
    }
}

impl TryFrom<String> for MetricsListen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MetricsListen> for String {
    fn from(listen: MetricsListen) -> Self {
        listen.to_string()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn metrics_are_at_the_loopback_port_of_the_same_number_unless_told_otherwise() {
        let address = |text: &str| {
            let config = Config::parse(text).unwrap();
            config.metrics_listen.address(config.listen).map(|address| address.to_string())
        };
        assert_eq!(address(""), Some("127.0.0.1:9470".to_owned()));
        assert_eq!(address("listen = \"[::]:7\""), Some("[::1]:7".to_owned()));
        assert_eq!(address("metrics_listen = \"127.0.0.1:1\""), Some("127.0.0.1:1".to_owned()));
        assert_eq!(address("metrics_listen = \"off\""), None);
        let refused = Config::parse("metrics_listen = \"of\"").unwrap_err().to_string();
        assert!(refused.contains("\"of\" is not \"loopback\", \"off\" or an address"), "{refused}");
    }
}
