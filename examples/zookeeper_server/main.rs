//! A server for ZooKeeper's own clients: what an operator, or a test, points a client at.
//!
//! Alone:
//! ```sh
//! cargo run --release --features zookeeper --example zookeeper_server -- --data /var/lib/quorate
//! ```
//! or each of several, here the first of three:
//! ```sh
//! zookeeper_server --data /var/lib/quorate --id 1 --listen 10.0.0.1:2888 \
//!     --peers 1=10.0.0.1:2888,2=10.0.0.2:2888,3=10.0.0.3:2888 --client-address 10.0.0.1
//! ```

pub(crate) mod options;

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use options::Options;
#[cfg(feature = "tls")]
use options::TlsFiles;
use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
#[cfg(feature = "tls")]
use quorate::transport::TlsConfig;
use quorate::transport::{Tcp, TcpBuilder};
use quorate::{Node, NodeBuilder};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return print!("{}", options::HELP),
        Err(error) => {
            eprintln!("zookeeper_server: {error}\n\n{}", options::HELP);
            std::process::exit(2);
        }
    };
    if let Err(error) = serve(&options) {
        eprintln!("zookeeper_server: {error}");
        std::process::exit(1);
    }
}

/// Serves until the node stops, or the process is ended: what was acknowledged is on the disk at any
/// moment, so no signal needs a word.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let (node, peer_address) = start_node(options)?;
    let server = start_server(options, &node, peer_address)?;
    // An ensemble waits for its majority as long as that takes.
    loop {
        let status = node.wait_for(Duration::from_secs(3600), |status| status.leader.is_some());
        match status.map(|status| status.stopped) {
            Ok(Some(reason)) => return Err(reason.into()),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    #[cfg(feature = "admin")]
    if let Some(address) = server.admin_address() {
        // The one line of the output is for who waits for the server.
        eprintln!("answering operators at http://{address}/commands");
    }
    println!("serving ZooKeeper clients at {}", server.address());
    std::io::stdout().flush()?;
    loop {
        let status = node.wait_for(Duration::from_secs(3600), |_| false);
        if let Ok(status) = status
            && let Some(reason) = status.stopped
        {
            return Err(reason.into());
        }
    }
}

/// The node, and where its peers reach it, if it can have any.
fn start_node(options: &Options) -> Result<(Node, Option<String>)> {
    let shortest = options.session_timeout_min.unwrap_or(options.tick * 2);
    let longest = options.session_timeout_max.unwrap_or(options.tick * 20);
    if shortest > longest {
        return Err("the shortest session timeout is longer than the longest".into());
    }
    let mut builder = Node::builder(options.id)
        .session_timeouts(shortest, longest)
        .reap_interval(options.reap_interval);
    if options.enforce_quota {
        builder = builder.enforce_quotas();
    }
    if let Some(directory) = &options.data {
        builder = builder.data_dir(directory);
    }
    let (builder, address) = with_peers(options, builder)?;
    Ok((builder.start()?, address))
}

fn with_peers(options: &Options, builder: NodeBuilder) -> Result<(NodeBuilder, Option<String>)> {
    let own = options.peers.get(&options.id);
    let Some(listen) = options.listen.as_ref().or(own) else {
        return match options.peers.is_empty() {
            true => Ok((builder, None)),
            false => Err("--peers takes --listen, or this node among the peers".into()),
        };
    };
    let tcp = Tcp::builder(listen).peers(options.peers.clone());
    let tcp = with_peer_tls(options, tcp)?;
    let tcp = match own {
        Some(own) => tcp.advertise(own).bind()?,
        None => tcp.bind()?,
    };
    let address = own.cloned().unwrap_or_else(|| tcp.local_addr().to_string());
    let builder = match options.joins {
        true => {
            let others = options.peers.keys().filter(|id| **id != options.id);
            builder.join(others.copied())
        }
        false => {
            let mut voters: Vec<u64> = options.peers.keys().copied().collect();
            if own.is_none() {
                voters.push(options.id);
            }
            builder.voters(voters)
        }
    };
    Ok((builder.transport(tcp), Some(address)))
}

fn start_server(
    options: &Options,
    node: &Node,
    peer_address: Option<String>,
) -> Result<ZooKeeperServer> {
    let quiet = options.quiet;
    let address = format!("{}:{}", options.client_address, options.client_port);
    let mut builder = ZooKeeperServer::builder(node)
        .listen(address)
        .four_letter_words(options.four_letter_words.clone())
        .require_authentication(options.required_schemes.clone())
        .allow_reconfig()
        .log(move |line| {
            if !quiet {
                eprintln!("{line}");
            }
        });
    if let Some(address) = peer_address {
        builder = builder.advertise(address);
    }
    if let Some(digest) = &options.super_digest {
        builder = builder.super_digest(digest);
    }
    if options.refuses_anonymous_writes {
        builder = builder.refuse_anonymous_writes();
    }
    if let Some(connections) = options.connections_per_address_max {
        builder = builder.connections_per_address_max(connections);
    }
    if let Some(directory) = &options.data {
        builder = builder.directory(directory);
    }
    builder = with_client_tls(options, builder)?;
    builder = with_admin(options, builder)?;
    Ok(builder.start()?)
}

#[cfg(feature = "tls")]
fn tls(files: &TlsFiles) -> Result<TlsConfig> {
    let tls = TlsConfig::from_pem_files(&files.authorities, &files.certificate, &files.key)?;
    Ok(match files.is_optional {
        true => tls.client_certificates_optional()?,
        false => tls,
    })
}

#[cfg(feature = "tls")]
fn with_peer_tls(options: &Options, tcp: TcpBuilder) -> Result<TcpBuilder> {
    match &options.tls {
        Some(files) if files.between_peers => Ok(tcp.tls(tls(files)?)),
        _ => Ok(tcp),
    }
}

#[cfg(feature = "tls")]
fn with_client_tls(
    options: &Options,
    mut builder: ZooKeeperServerBuilder,
) -> Result<ZooKeeperServerBuilder> {
    if let Some(subject) = &options.super_x509 {
        builder = builder.super_x509(subject);
    }
    if let Some(files) = &options.tls {
        builder = builder.tls(tls(files)?);
        if files.only {
            builder = builder.refuse_plain();
        }
    }
    Ok(builder)
}

#[cfg(not(feature = "tls"))]
fn with_peer_tls(options: &Options, tcp: TcpBuilder) -> Result<TcpBuilder> {
    match &options.tls {
        Some(files) if files.between_peers => Err(without("tls")),
        _ => Ok(tcp),
    }
}

#[cfg(not(feature = "tls"))]
fn with_client_tls(
    options: &Options,
    builder: ZooKeeperServerBuilder,
) -> Result<ZooKeeperServerBuilder> {
    match (&options.tls, &options.super_x509) {
        (None, None) => Ok(builder),
        _ => Err(without("tls")),
    }
}

#[cfg(feature = "admin")]
fn with_admin(
    options: &Options,
    builder: ZooKeeperServerBuilder,
) -> Result<ZooKeeperServerBuilder> {
    Ok(match options.admin_port {
        Some(port) => builder.admin(format!("127.0.0.1:{port}")),
        None => builder,
    })
}

#[cfg(not(feature = "admin"))]
fn with_admin(
    options: &Options,
    builder: ZooKeeperServerBuilder,
) -> Result<ZooKeeperServerBuilder> {
    match options.admin_port {
        Some(_) => Err(without("admin")),
        None => Ok(builder),
    }
}

#[cfg(not(all(feature = "tls", feature = "admin")))]
fn without(feature: &str) -> Box<dyn Error> {
    format!("this program was built without it: build it with --features {feature}").into()
}
