//! A server for ZooKeeper's own clients: what an operator, or a test, points a client at.
//!
//! ```sh
//! cargo run --release --features zookeeper --example zookeeper_server -- --data /var/lib/quorate
//! ```

mod options;

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use options::Options;
use quorate::Node;
use quorate::server::ZooKeeperServer;

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
fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    let node = start_node(options)?;
    let quiet = options.quiet;
    let mut builder = ZooKeeperServer::builder(&node)
        .listen(format!(
            "{}:{}",
            options.client_address, options.client_port
        ))
        .four_letter_words(options.four_letter_words.clone())
        .log(move |line| {
            if !quiet {
                eprintln!("{line}");
            }
        });
    if let Some(digest) = &options.super_digest {
        builder = builder.super_digest(digest);
    }
    if let Some(connections) = options.connections_per_address_max {
        builder = builder.connections_per_address_max(connections);
    }
    let server = builder.start()?;
    node.wait_for(Duration::from_secs(30), |status| status.leader.is_some())?;
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

fn start_node(options: &Options) -> Result<Node, Box<dyn Error>> {
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
    Ok(builder.start()?)
}
