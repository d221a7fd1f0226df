//! The command line, and the node that it asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use quorate::storage::{Log, LogOptions, Sled, SledOptions};
use quorate::transport::{Peers, Tcp, TcpBuilder};
use quorate::{Node, NodeBuilder};

use crate::AnyError;

/// One node of a cluster, and a shell to use and to operate it.
///
/// Run it once per node. The first nodes are started with the same list of peers; a node that comes later
/// is started with --join, and `add` on any other node lets it in.
#[derive(Parser, Debug)]
#[command(
    name = "ensemble",
    after_help = "Type `help` in the shell. Where the input is no terminal, it is a list of commands."
)]
pub(crate) struct Options {
    /// This node's id: any number but 0, and never one whose disk was lost
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Where it listens, as host:port [default: its own address among the peers]
    #[arg(long)]
    listen: Option<String>,
    /// Where the nodes are, as 1=host:port,2=host:port,...
    #[arg(long, value_delimiter = ',', value_parser = peer)]
    peers: Vec<(u64, String)>,
    /// Joins a running cluster of which the peers are nodes
    #[arg(long)]
    join: bool,
    /// Keeps everything in this directory [default: in memory, and gone at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How it is kept [default: log, and memory without --data]
    #[arg(long)]
    storage: Option<StorageKind>,
    /// The cluster's name, the same on every node
    #[arg(long, default_value = "ensemble")]
    cluster: String,
    /// How long the shell's session outlives the silence of its node
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    session_timeout_ms: u64,
    /// How long a command may take
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    patience_ms: u64,
    /// Mutual TLS: the authorities' certificates
    #[arg(long, value_name = "PEM", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,
    /// This node's certificate, valid for the name node-ID
    #[arg(long, value_name = "PEM", requires = "tls_ca")]
    tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "PEM", requires = "tls_ca")]
    tls_key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Debug, ValueEnum)]
enum StorageKind {
    /// Segmented files, the store for production
    Log,
    /// The sled database
    Sled,
    /// Nothing is left at the end
    Memory,
}

/// A node that was started, and where it is.
pub(crate) struct Started {
    pub(crate) node: Node,
    pub(crate) peers: Peers,
    pub(crate) address: String,
}

impl Options {
    pub(crate) fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// Starts the node. One that joins waits here until a node of the cluster has answered.
    pub(crate) fn start(&self) -> Result<Started, AnyError> {
        let tcp = self
            .secure(Tcp::builder(self.listen()?))?
            .peers(self.peers.clone())
            .bind()?;
        let (peers, address) = (tcp.peers(), tcp.local_addr().to_string());
        let others = self.peers.iter().map(|(id, _)| *id);
        let builder = Node::builder(self.id).cluster(&self.cluster).transport(tcp);
        let builder = if self.join {
            builder.join(others.filter(|id| *id != self.id))
        } else if self.peers.is_empty() {
            builder
        } else if self.peers.iter().any(|(id, _)| *id == self.id) {
            builder.voters(others)
        } else {
            let id = self.id;
            let text = format!("node {id} is not among the peers: list it, or use --join");
            return Err(text.into());
        };
        let node = self.store(builder)?.start()?;
        Ok(Started {
            node,
            peers,
            address,
        })
    }

    fn listen(&self) -> Result<String, AnyError> {
        let own = self.peers.iter().find(|(id, _)| *id == self.id);
        let own = own.map(|(_, address)| address);
        match self.listen.as_ref().or(own) {
            Some(address) => Ok(address.clone()),
            None => Err("--listen is missing: where should this node be reached?".into()),
        }
    }

    fn store(&self, builder: NodeBuilder) -> Result<NodeBuilder, AnyError> {
        let kind = self.storage.unwrap_or(match self.data {
            Some(_) => StorageKind::Log,
            None => StorageKind::Memory,
        });
        Ok(match (kind, &self.data) {
            (StorageKind::Memory, None) => builder,
            (StorageKind::Memory, Some(_)) => return Err("memory keeps nothing in --data".into()),
            (_, None) => return Err("--storage log and sled need a directory: --data DIR".into()),
            (StorageKind::Log, Some(dir)) => {
                builder.storage(Log::open(dir, LogOptions::default())?)
            }
            (StorageKind::Sled, Some(dir)) => {
                builder.storage(Sled::open(dir, SledOptions::default())?)
            }
        })
    }

    #[cfg(feature = "tls")]
    fn secure(&self, builder: TcpBuilder) -> Result<TcpBuilder, AnyError> {
        use quorate::transport::TlsConfig;
        Ok(match (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            (Some(authorities), Some(certificate), Some(key)) => {
                builder.tls(TlsConfig::from_pem_files(authorities, certificate, key)?)
            }
            _ => builder,
        })
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self, builder: TcpBuilder) -> Result<TcpBuilder, AnyError> {
        match self.tls_ca {
            Some(_) => Err("this program was built without TLS: add --features tls".into()),
            None => Ok(builder),
        }
    }
}

fn peer(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("a peer is ID=host:port")?;
    match id.parse() {
        Ok(0) | Err(_) => Err(format!("{id:?} is no node's id")),
        Ok(id) => Ok((id, address.to_owned())),
    }
}
