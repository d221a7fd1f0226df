//! The command line.

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
  --super-digest USER:HASH     who may do everything: user:base64(sha1(user:password))
  --four-letter-words WORDS    which are answered: srvr,ruok,... or all (srvr)
  --reap-interval-ms N         how often containers and TTL znodes are looked for (60000)
  --enforce-quota              refuse what would exceed a hard quota
  --max-client-connections N   the most connections from one address
  --quiet                      no line for each connection that is closed
  --help
";

/// What is asked for that this program can't do yet.
const NOT_YET: [&str; 6] = [
    "listen",
    "peers",
    "tls-cert",
    "tls-key",
    "tls-ca",
    "admin-port",
];

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) client_port: u16,
    pub(crate) client_address: String,
    pub(crate) data: Option<PathBuf>,
    pub(crate) id: u64,
    pub(crate) tick: Duration,
    pub(crate) session_timeout_min: Option<Duration>,
    pub(crate) session_timeout_max: Option<Duration>,
    pub(crate) super_digest: Option<String>,
    pub(crate) four_letter_words: Vec<String>,
    pub(crate) reap_interval: Duration,
    pub(crate) enforce_quota: bool,
    pub(crate) connections_per_address_max: Option<usize>,
    pub(crate) quiet: bool,
}

/// What the command line asks for; `None` is the help.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options {
        client_port: 2181,
        client_address: "127.0.0.1".to_string(),
        data: None,
        id: 1,
        tick: Duration::from_millis(2_000),
        session_timeout_min: None,
        session_timeout_max: None,
        super_digest: None,
        four_letter_words: vec!["srvr".to_string()],
        reap_interval: Duration::from_secs(60),
        enforce_quota: false,
        connections_per_address_max: None,
        quiet: false,
    };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("client-port") => options.client_port = parser.value()?.parse()?,
            Arg::Long("client-address") => options.client_address = parser.value()?.parse()?,
            Arg::Long("data") => options.data = Some(parser.value()?.into()),
            Arg::Long("id") => options.id = parser.value()?.parse()?,
            Arg::Long("tick-ms") => options.tick = milliseconds(&mut parser)?,
            Arg::Long("min-session-timeout-ms") => {
                options.session_timeout_min = Some(milliseconds(&mut parser)?);
            }
            Arg::Long("max-session-timeout-ms") => {
                options.session_timeout_max = Some(milliseconds(&mut parser)?);
            }
            Arg::Long("super-digest") => options.super_digest = Some(parser.value()?.parse()?),
            Arg::Long("four-letter-words") => {
                let words: String = parser.value()?.parse()?;
                options.four_letter_words = match words.as_str() {
                    "all" => vec!["*".to_string()],
                    words => words.split(',').map(str::to_string).collect(),
                };
            }
            Arg::Long("reap-interval-ms") => options.reap_interval = milliseconds(&mut parser)?,
            Arg::Long("enforce-quota") => options.enforce_quota = true,
            Arg::Long("max-client-connections") => {
                options.connections_per_address_max = Some(parser.value()?.parse()?);
            }
            Arg::Long("quiet") => options.quiet = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long(name) if NOT_YET.contains(&name) => {
                return Err(format!("--{name} is not supported by this build").into());
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}

fn milliseconds(parser: &mut lexopt::Parser) -> Result<Duration, lexopt::Error> {
    match parser.value()?.parse()? {
        0 => Err("a time of 0 ms makes no sense".into()),
        ms => Ok(Duration::from_millis(ms)),
    }
}
