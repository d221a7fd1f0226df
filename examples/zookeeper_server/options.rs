//! The command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, ValueExt as _};

pub(crate) const HELP: &str = "\
Serves ZooKeeper's own clients from a quorate node.

usage: zookeeper_server [options]

  --client-port N              where clients connect (2181; 0 is any free port)
  --client-address IP          at which address (127.0.0.1)
  --data DIR                   keep everything in this directory (in memory, and gone at the end)
  --id N                       the node's id (1)
  --tick-ms N                  ZooKeeper's tick: sessions last 2 to 20 of them (2000)
  --min-session-timeout-ms N   the shortest session timeout instead
  --max-session-timeout-ms N   the longest session timeout instead
  --four-letter-words WORDS    which are answered: srvr,ruok,... or all (srvr)
  --reap-interval-ms N         how often containers and TTL znodes are looked for (60000)
  --enforce-quota              refuse what would exceed a hard quota
  --max-client-connections N   the most connections from one address
  --admin-port N               commands, metrics and health by HTTP, at 127.0.0.1 (feature admin)
  --quiet                      no line for each connection that is closed
  --help

An ensemble, whose members may be changed by `reconfig`:
  --listen HOST:PORT           where the other members reach this one
  --peers 1=HOST:PORT,2=...    the members that the ensemble begins with, the same everywhere
  --join                       it runs already: ask --peers, and wait to be added by `reconfig`

Who may do what:
  --super-digest USER:HASH     who may do everything: user:base64(sha1(user:password))
  --super-x509 SUBJECT         the same, by the subject of a certificate (feature tls)
  --require-auth SCHEMES       serve only who has authenticated by one of digest,x509,...
  --refuse-anonymous-writes    let only those write who have authenticated

TLS, on the same port (feature tls):
  --tls-cert FILE --tls-key FILE --tls-ca FILE
                               this server's certificate and key, and who signs the clients' (PEM)
  --tls-optional               a client may have no certificate
  --tls-only                   refuse clients without TLS
  --tls-peers                  between members, too: the certificate must be for the name node-ID
";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) client_port: u16,
    pub(crate) client_address: String,
    pub(crate) data: Option<PathBuf>,
    pub(crate) id: u64,
    pub(crate) listen: Option<String>,
    pub(crate) peers: BTreeMap<u64, String>,
    pub(crate) joins: bool,
    pub(crate) tick: Duration,
    pub(crate) session_timeout_min: Option<Duration>,
    pub(crate) session_timeout_max: Option<Duration>,
    pub(crate) super_digest: Option<String>,
    pub(crate) super_x509: Option<String>,
    pub(crate) required_schemes: Vec<String>,
    pub(crate) refuses_anonymous_writes: bool,
    pub(crate) four_letter_words: Vec<String>,
    pub(crate) reap_interval: Duration,
    pub(crate) enforce_quota: bool,
    pub(crate) connections_per_address_max: Option<usize>,
    pub(crate) admin_port: Option<u16>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) quiet: bool,
}

/// Certificates, and where they are used.
#[derive(Debug)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authorities: PathBuf,
    pub(crate) is_optional: bool,
    pub(crate) only: bool,
    pub(crate) between_peers: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            client_port: 2181,
            client_address: "127.0.0.1".to_string(),
            data: None,
            id: 1,
            listen: None,
            peers: BTreeMap::new(),
            joins: false,
            tick: Duration::from_millis(2_000),
            session_timeout_min: None,
            session_timeout_max: None,
            super_digest: None,
            super_x509: None,
            required_schemes: Vec::new(),
            refuses_anonymous_writes: false,
            four_letter_words: vec!["srvr".to_string()],
            reap_interval: Duration::from_secs(60),
            enforce_quota: false,
            connections_per_address_max: None,
            admin_port: None,
            tls: None,
            quiet: false,
        }
    }
}

/// What the command line asks for; `None` is the help.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::default();
    let (mut certificate, mut key, mut authorities) = (None, None, None);
    let (mut is_optional, mut only, mut between_peers) = (false, false, false);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("client-port") => options.client_port = parser.value()?.parse()?,
            Arg::Long("client-address") => options.client_address = parser.value()?.parse()?,
            Arg::Long("data") => options.data = Some(parser.value()?.into()),
            Arg::Long("id") => options.id = parser.value()?.parse()?,
            Arg::Long("listen") => options.listen = Some(parser.value()?.parse()?),
            Arg::Long("peers") => options.peers = parser.value()?.parse_with(peers)?,
            Arg::Long("join") => options.joins = true,
            Arg::Long("tick-ms") => options.tick = milliseconds(&mut parser)?,
            Arg::Long("min-session-timeout-ms") => {
                options.session_timeout_min = Some(milliseconds(&mut parser)?);
            }
            Arg::Long("max-session-timeout-ms") => {
                options.session_timeout_max = Some(milliseconds(&mut parser)?);
            }
            Arg::Long("super-digest") => options.super_digest = Some(parser.value()?.parse()?),
            Arg::Long("super-x509") => options.super_x509 = Some(parser.value()?.parse()?),
            Arg::Long("require-auth") => options.required_schemes = list(&mut parser)?,
            Arg::Long("refuse-anonymous-writes") => options.refuses_anonymous_writes = true,
            Arg::Long("four-letter-words") => {
                let words = list(&mut parser)?;
                options.four_letter_words = match words.iter().any(|word| word == "all") {
                    true => vec!["*".to_string()],
                    false => words,
                };
            }
            Arg::Long("reap-interval-ms") => options.reap_interval = milliseconds(&mut parser)?,
            Arg::Long("enforce-quota") => options.enforce_quota = true,
            Arg::Long("max-client-connections") => {
                options.connections_per_address_max = Some(parser.value()?.parse()?);
            }
            Arg::Long("admin-port") => options.admin_port = Some(parser.value()?.parse()?),
            Arg::Long("tls-cert") => certificate = Some(parser.value()?.into()),
            Arg::Long("tls-key") => key = Some(parser.value()?.into()),
            Arg::Long("tls-ca") => authorities = Some(parser.value()?.into()),
            Arg::Long("tls-optional") => is_optional = true,
            Arg::Long("tls-only") => only = true,
            Arg::Long("tls-peers") => between_peers = true,
            Arg::Long("quiet") => options.quiet = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    options.tls = match (certificate, key, authorities) {
        (Some(certificate), Some(key), Some(authorities)) => Some(TlsFiles {
            certificate,
            key,
            authorities,
            is_optional,
            only,
            between_peers,
        }),
        (None, None, None) if !(is_optional || only || between_peers) => None,
        _ => return Err("TLS takes --tls-cert, --tls-key and --tls-ca".into()),
    };
    if options.joins && options.peers.is_empty() {
        return Err("--join takes --peers, who are asked".into());
    }
    Ok(Some(options))
}

fn milliseconds(parser: &mut lexopt::Parser) -> Result<Duration, lexopt::Error> {
    match parser.value()?.parse()? {
        0 => Err("a time of 0 ms makes no sense".into()),
        ms => Ok(Duration::from_millis(ms)),
    }
}

fn list(parser: &mut lexopt::Parser) -> Result<Vec<String>, lexopt::Error> {
    let text: String = parser.value()?.parse()?;
    Ok(text.split(',').map(str::to_string).collect())
}

/// `1=host:port,2=host:port`.
fn peers(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let peer = |peer: &str| {
        let (id, address) = peer.split_once('=')?;
        Some((id.trim().parse().ok()?, address.trim().to_string()))
    };
    text.split(',')
        .map(|text| peer(text).ok_or_else(|| format!("{text:?} is no ID=HOST:PORT")))
        .collect()
}
