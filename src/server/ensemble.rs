//! The text of `/zookeeper/config`: who takes part, and where each one is (ZooKeeper's `QuorumMaj` and
//! `QuorumServer`). Pure: text in, servers out, and back.

use std::collections::BTreeMap;
use std::fmt;

/// The most servers; ZooKeeper's ids end there, too.
const SERVERS_MAX: usize = 255;

/// A member of the ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Server {
    /// `host:port` for the other servers; an IPv6 address is in brackets.
    pub peer: Address,
    /// ZooKeeper's second port, which we have no use for.
    pub election_port: u16,
    pub is_participant: bool,
    /// Where clients connect, if that is said.
    pub client: Option<Address>,
}

/// A host and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Address {
    host: String,
    port: u16,
}

/// Servers by their ids, and the version of what is said of them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Ensemble {
    pub servers: BTreeMap<u64, Server>,
    pub version: u64,
}

/// Why a text means no ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Misstated {
    /// It says what can't be.
    Wrong(String),
    /// It isn't even understood: what should be an id is none.
    Unreadable(String),
}

impl Misstated {
    pub(super) fn into_reason(self) -> String {
        match self {
            Misstated::Wrong(reason) | Misstated::Unreadable(reason) => reason,
        }
    }
}

impl Address {
    /// `host:port`.
    pub(super) fn parse(text: &str) -> Result<Address, Misstated> {
        let wrong = || Misstated::Wrong(format!("{text:?} is no host:port"));
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        Address::new(host, port)
    }

    pub(super) fn of(address: std::net::SocketAddr) -> Address {
        let port = address.port();
        let host = match address.ip() {
            std::net::IpAddr::V4(host) => host.to_string(),
            std::net::IpAddr::V6(host) => format!("[{host}]"),
        };
        Address { host, port }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    fn new(host: &str, port: u16) -> Result<Address, Misstated> {
        let bare = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').filter(|host| is_host(host, true)),
            None => Some(host).filter(|host| is_host(host, false)),
        };
        match bare {
            Some(_) => Ok(Address {
                host: host.to_string(),
                port,
            }),
            None => Err(Misstated::Wrong(format!("{host:?} is no host"))),
        }
    }
}

fn is_host(host: &str, is_bracketed: bool) -> bool {
    let allowed = |character: char| {
        character.is_ascii_alphanumeric()
            || "-._%".contains(character)
            || (is_bracketed && character == ':')
    };
    !host.is_empty() && host.len() <= 255 && host.chars().all(allowed)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Server {
    /// `host:port:port[:participant|observer][;[host:]port]`.
    pub(super) fn parse(text: &str) -> Result<Server, Misstated> {
        let wrong = |what: &str| Misstated::Wrong(format!("{text:?}: {what}"));
        let (server, client) = match text.split_once(';') {
            Some((server, client)) => (server.trim(), Some(client.trim())),
            None => (text.trim(), None),
        };
        // The host may have colons of its own, in brackets.
        let host_end = match server.starts_with('[') {
            true => server.find(']').ok_or_else(|| wrong("no host"))? + 1,
            false => server.find(':').unwrap_or(server.len()),
        };
        let (host, rest) = server.split_at(host_end);
        let mut parts = rest.split(':').skip(1);
        let mut port = || -> Result<u16, Misstated> {
            let port = parts.next().ok_or_else(|| wrong("it has two ports"))?;
            port.trim().parse().map_err(|_| wrong("no port"))
        };
        let peer = Address::new(host, port()?)?;
        let election_port = port()?;
        let is_participant = match parts.next().map(str::to_ascii_lowercase).as_deref() {
            None | Some("participant") => true,
            Some("observer") => false,
            Some(_) => return Err(wrong("neither participant nor observer")),
        };
        if parts.next().is_some() {
            return Err(wrong("too many parts"));
        }
        let client = match client {
            None | Some("") => None,
            Some(client) if client.contains(':') => Some(Address::parse(client)?),
            Some(port) => {
                let port = port.parse().map_err(|_| wrong("no port for clients"))?;
                Some(Address::new("0.0.0.0", port)?)
            }
        };
        Ok(Server {
            peer,
            election_port,
            is_participant,
            client,
        })
    }

    fn addresses(&self) -> impl Iterator<Item = (&str, u16)> {
        let peer = (self.peer.host.as_str(), self.peer.port);
        let election = (self.peer.host.as_str(), self.election_port);
        let client = self.client.iter();
        // At an unspecified host it listens by itself, not where others do.
        let client = client.filter(|client| client.host != "0.0.0.0" && client.host != "[::]");
        let client = client.map(|client| (client.host.as_str(), client.port));
        [peer, election].into_iter().chain(client)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.is_participant {
            "participant"
        } else {
            "observer"
        };
        write!(f, "{}:{}:{role}", self.peer, self.election_port)?;
        match &self.client {
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

impl Ensemble {
    /// What `/zookeeper/config` holds, or a whole new configuration: a line, or what stands between two
    /// commas, for each server. Other properties than `server.N` and `version` mean nothing here, but
    /// groups and weights would mean something else.
    pub(super) fn parse(text: &str) -> Result<Ensemble, Misstated> {
        let mut ensemble = Ensemble::default();
        for line in text.split(['\n', ',']) {
            let line = line.trim();
            let Some((key, value)) = line.split_once('=') else {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                return Err(Misstated::Wrong(format!(
                    "{line:?} says nothing of a server"
                )));
            };
            match key.trim() {
                "version" => {
                    ensemble.version = u64::from_str_radix(value.trim(), 16)
                        .map_err(|_| Misstated::Wrong(format!("{value:?} is no version")))?;
                }
                key if key.starts_with("group") || key.starts_with("weight") => {
                    return Err(Misstated::Wrong(
                        "there are neither groups nor weights".to_string(),
                    ));
                }
                key if key.starts_with("server.") => ensemble.add(key, value)?,
                _ => {}
            }
        }
        ensemble.check()?;
        Ok(ensemble)
    }

    /// Adds servers, as text, in the place of those with the same ids.
    pub(super) fn join(&mut self, joining: &str) -> Result<(), Misstated> {
        for server in joining.split(',') {
            let (key, value) = server
                .split_once('=')
                .ok_or_else(|| Misstated::Wrong(format!("{server:?} is no server")))?;
            self.add(key.trim(), value)?;
        }
        self.check()
    }

    /// Takes the servers with these ids away, and gives the ids. Those that aren't there are gone.
    pub(super) fn leave(&mut self, leaving: &str) -> Result<Vec<u64>, Misstated> {
        let ids = leaving.split(',').map(server_id);
        let ids = ids.collect::<Result<Vec<u64>, Misstated>>()?;
        self.servers.retain(|id, _| !ids.contains(id));
        Ok(ids)
    }

    fn add(&mut self, key: &str, value: &str) -> Result<(), Misstated> {
        let id = server_id(key.rsplit('.').next().unwrap_or_default())?;
        self.servers.insert(id, Server::parse(value)?);
        if self.servers.len() > SERVERS_MAX {
            return Err(Misstated::Wrong(format!("more than {SERVERS_MAX} servers")));
        }
        Ok(())
    }

    /// No two servers are at the same place.
    fn check(&self) -> Result<(), Misstated> {
        let mut taken = BTreeMap::new();
        for (id, server) in &self.servers {
            for (host, port) in server.addresses() {
                let owner = *taken.entry((host, port)).or_insert(*id);
                if owner != *id {
                    return Err(Misstated::Wrong(format!(
                        "servers {owner} and {id} are both at {host}:{port}"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn server_id(text: &str) -> Result<u64, Misstated> {
    match text.trim().parse() {
        Ok(id) if id > 0 => Ok(id),
        _ => Err(Misstated::Unreadable(format!("{text:?} is no server's id"))),
    }
}

impl fmt::Display for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, server) in &self.servers {
            writeln!(f, "server.{id}={server}")?;
        }
        write!(f, "version={:x}", self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_is_written() {
        let text = "server.1=a.example:2888:3888:participant;0.0.0.0:2181\n\
                    server.2=10.0.0.2:2888:2888:observer;[::1]:2181\n\
                    server.10=[fe80::1]:2888:3888:participant\n\
                    version=1f";
        let ensemble = Ensemble::parse(text).unwrap();
        assert_eq!(ensemble.to_string(), text);
        assert_eq!(ensemble.version, 31);
        assert!(!ensemble.servers[&2].is_participant);
        assert_eq!(Ensemble::parse(""), Ok(Ensemble::default()));
    }

    #[test]
    fn what_may_be_left_out_gets_zookeepers_default() {
        let server = Server::parse("h:1:2;2181").unwrap();
        assert_eq!(server.to_string(), "h:1:2:participant;0.0.0.0:2181");
        let server = Server::parse("h:1:2:OBSERVER").unwrap();
        assert_eq!(server.to_string(), "h:1:2:observer");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in [
            "",
            "h",
            "h:1",
            "h:1:x",
            "h:1:2:leader",
            "h:1:2:observer:3",
            "h:1:99999",
            "[::1:1:2",
            ":1:2",
            "h:1:2;x",
            "a b:1:2",
            "h=:1:2",
        ] {
            assert!(Server::parse(text).is_err(), "{text:?}");
        }
        for text in ["server.0=h:1:2", "server.x=h:1:2", "group.1=1:2", "what"] {
            assert!(Ensemble::parse(text).is_err(), "{text:?}");
        }
        let many: Vec<_> = (1..=256).map(|n| format!("server.{n}=h{n}:1:2")).collect();
        assert!(Ensemble::parse(&many.join(",")).is_err());
    }

    #[test]
    fn two_servers_are_not_at_the_same_place() {
        let mut ensemble = Ensemble::parse("server.1=h:1:1;h:2181").unwrap();
        assert!(ensemble.clone().join("server.2=h:1:3").is_err());
        assert!(ensemble.clone().join("server.2=h:4:5;h:2181").is_err());
        assert!(ensemble.clone().join("server.1=h:1:3").is_ok());
        ensemble.join("server.2=h:4:5,server.3=h:6:7").unwrap();
        assert_eq!(ensemble.leave("2,9"), Ok(vec![2, 9]));
        assert_eq!(Vec::from_iter(ensemble.servers.into_keys()), [1, 3]);
        assert!(Ensemble::default().leave("x").is_err());
    }
}
