//! The command line.

use std::ffi::OsString;

use lexopt::{Arg, ValueExt as _};

pub(crate) const HELP: &str = "\
Copies the tree of a live ZooKeeper into a quorate cluster, or back, and verifies it.

usage: import_zookeeper --from ADDRESSES --to ADDRESSES [options]

  --from ADDRESSES             servers of the source: host:port,host:port,...
  --to ADDRESSES               servers of the target
  --path PATH                  this znode and what is below it (/)
  --counters                   raise each znode's counter of sequential children to the source's: by
                               creating and deleting children, so it takes as many writes as are missing
  --ephemerals-as-persistent   copy them, as persistent ones (they are left out)
  --container PATTERN          make containers of these: a client can't see which znodes are some.
                               In a pattern, * is one component: /locks/*
  --ttl PATTERN=MS             give these a time to live: a client can't see that either
  --overwrite                  the target need not be empty: what differs is overwritten, what is there
                               besides is kept
  --source-auth SCHEME:TEXT    identify to the source: digest:user:password
  --target-auth SCHEME:TEXT    identify to the target; as super, where ACLs shut others out
  --in-flight N                how many znodes are asked for, or written, at once (256)
  --passes N                   how often what has changed meanwhile is copied again (10)
  --quiet                      no progress
  --help

Data and ACLs are kept, and quotas; versions and times are the target's own. It exits with 0 where the
last pass over both trees has found no difference, else with 1.
";

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) path: String,
    pub(crate) counters: bool,
    pub(crate) with_ephemerals: bool,
    pub(crate) containers: Vec<String>,
    pub(crate) ttls: Vec<(String, i64)>,
    pub(crate) overwrite: bool,
    pub(crate) source_auth: Option<(String, String)>,
    pub(crate) target_auth: Option<(String, String)>,
    pub(crate) in_flight: usize,
    pub(crate) passes: usize,
    pub(crate) quiet: bool,
}

impl Options {
    pub(crate) fn new(from: impl Into<String>, to: impl Into<String>) -> Options {
        Options {
            from: from.into(),
            to: to.into(),
            path: "/".to_string(),
            counters: false,
            with_ephemerals: false,
            containers: Vec::new(),
            ttls: Vec::new(),
            overwrite: false,
            source_auth: None,
            target_auth: None,
            in_flight: 256,
            passes: 10,
            quiet: false,
        }
    }
}

/// What the command line asks for; `None` is the help.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::new("", "");
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("from") => options.from = parser.value()?.parse()?,
            Arg::Long("to") => options.to = parser.value()?.parse()?,
            Arg::Long("path") => options.path = parser.value()?.parse()?,
            Arg::Long("counters") => options.counters = true,
            Arg::Long("ephemerals-as-persistent") => options.with_ephemerals = true,
            Arg::Long("container") => options.containers.push(parser.value()?.parse()?),
            Arg::Long("ttl") => options.ttls.push(ttl(&parser.value()?.parse::<String>()?)?),
            Arg::Long("overwrite") => options.overwrite = true,
            Arg::Long("source-auth") => options.source_auth = Some(auth(&mut parser)?),
            Arg::Long("target-auth") => options.target_auth = Some(auth(&mut parser)?),
            Arg::Long("in-flight") => options.in_flight = at_least_one(&mut parser)?,
            Arg::Long("passes") => options.passes = at_least_one(&mut parser)?,
            Arg::Long("quiet") => options.quiet = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    if options.from.is_empty() || options.to.is_empty() {
        return Err("--from and --to are needed".into());
    }
    Ok(Some(options))
}

fn at_least_one(parser: &mut lexopt::Parser) -> Result<usize, lexopt::Error> {
    match parser.value()?.parse()? {
        0 => Err("0 makes no sense".into()),
        number => Ok(number),
    }
}

fn ttl(text: &str) -> Result<(String, i64), lexopt::Error> {
    let parsed = text
        .rsplit_once('=')
        .and_then(|(pattern, ms)| Some((pattern.to_string(), ms.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is no PATTERN=MS").into())
}

fn auth(parser: &mut lexopt::Parser) -> Result<(String, String), lexopt::Error> {
    let text: String = parser.value()?.parse()?;
    match text.split_once(':') {
        Some((scheme, rest)) => Ok((scheme.to_string(), rest.to_string())),
        None => Err("credentials are SCHEME:TEXT".into()),
    }
}

/// Whether a path is meant, `*` being any one component.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            _ => return false,
        }
    }
}
