//! The floors of ARCHITECTURE.md: imports point only downwards, and each floor stays ignorant of what
//! it must never know. Every path in every file under `src` is read: `use` or not, `crate::`,
//! `super::`, or another crate's. Comments, strings and code for tests alone may say what they like
//! of other crates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every module at the top and its floor. Modules of one floor don't know each other, but for the
/// words of floor 0.
const FLOORS: &[(&str, u8)] = &[
    ("error", 0),
    ("ids", 0),
    ("path", 0),
    ("stat", 0),
    ("acl", 0),
    ("op", 0),
    ("clock", 0),
    ("observe", 0),
    ("proto", 0),
    ("state", 1),
    ("storage", 1),
    ("transport", 1),
    ("consensus", 2),
    ("replica", 3),
    ("node", 4),
    ("client", 5),
    ("recovery", 5),
    ("recipes", 6),
    ("server", 6),
    ("testing", 7),
];

/// Those that are sans-IO and deterministic. `clock` is the one place below the node that reads clocks.
const PURE: &[&str] = &[
    "error",
    "ids",
    "path",
    "stat",
    "acl",
    "op",
    "proto",
    "state",
    "consensus",
    "replica",
];

/// What pure modules must never know: clocks, threads, files, sockets, the environment, randomness.
const IMPURE: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::io",
    "std::os",
    "std::env",
    "std::process",
    "crossbeam_channel",
    "rand",
    "getrandom",
    "foldhash::fast::RandomState",
    "foldhash::quality::RandomState",
    "tempfile",
];

/// Crates that are known in one place only.
const CONFINED: &[(&str, &[&str])] = &[
    ("raft", &["consensus::raft"]),
    ("sled", &["storage::sled"]),
    ("protobuf", &["proto", "consensus::raft", "state::snapshot"]),
];

/// Floors that a module skips, though they are below it.
const UNKNOWN_TO: &[(&str, &[&str])] = &[
    ("client", &["consensus", "replica", "storage", "transport"]),
    ("consensus", &["state"]),
];

/// Those that use what a host could use, and nothing else.
const USERS: &[&str] = &["recipes", "server"];

#[test]
fn imports_point_only_downwards() {
    let source = Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(
        source.files.len() > 50,
        "only {} files were found",
        source.files.len()
    );
    let broken = source.broken();
    assert!(
        broken.is_empty(),
        "{} floors are broken:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

#[test]
fn a_broken_floor_is_named_with_its_line_and_rule() {
    let lib = "mod error; pub mod state; pub mod consensus; mod node; mod recipes; mod client;\n\
               pub use node::{Node, NodeBuilder as Builder}; pub use error::Error;";
    let with = |file: &str, text: &str| {
        let files = [
            ("lib.rs", lib),
            ("state/mod.rs", "#[cfg(test)] mod model;"),
            (file, text),
        ];
        Source::of(files.map(|(name, text)| (name.to_string(), text.to_string()))).broken()
    };
    let names = |file: &str, text: &str, place: &str, rule: &str| {
        let broken = with(file, text);
        assert_eq!(broken.len(), 1, "{file}: {text}: {broken:?}");
        assert!(broken[0].contains(place), "{broken:?} names {place}");
        assert!(broken[0].contains(rule), "{broken:?} names {rule}");
    };
    names(
        "state/a.rs",
        "\nuse crate::{error::Error, node::Call};",
        "src/state/a.rs:2",
        "floor 4",
    );
    names(
        "state/a.rs",
        "fn f() { crate::Builder::new() }",
        "src/state/a.rs:1",
        "floor 4",
    );
    names(
        "state/a.rs",
        "use super::super::client::X;",
        "src/state/a.rs:1",
        "floor 5",
    );
    names(
        "state/a.rs",
        "mod b { use super::super::super::client::X; }",
        "a.rs:1",
        "floor 5",
    );
    names(
        "state/a.rs",
        "/* x\n*/ use std::time::{Duration, Instant};",
        "a.rs:2",
        "Instant",
    );
    names(
        "state/a.rs",
        "use std::time; fn f() { time::Instant::now(); }",
        "a.rs:1",
        "Instant",
    );
    names(
        "state/a.rs",
        "fn f() { ::std::thread::spawn(g) }",
        "a.rs:1",
        "std::thread",
    );
    names(
        "state/a.rs",
        "use crate::storage::Log;",
        "a.rs:1",
        "same floor",
    );
    names(
        "replica/mod.rs",
        "use raft::RawNode;",
        "replica/mod.rs:1",
        "consensus::raft",
    );
    names(
        "recipes/lock.rs",
        "use crate::node::Call;",
        "lock.rs:1",
        "public",
    );
    names(
        "recipes/lock.rs",
        "use crate::server::Server;",
        "lock.rs:1",
        "same floor",
    );
    names(
        "client/mod.rs",
        "use crate::consensus::Consensus;",
        "client/mod.rs:1",
        "client",
    );
    names(
        "common/mod.rs",
        "struct X;",
        "src/common/mod.rs",
        "no floor",
    );

    for (file, text) in [
        (
            "node/mod.rs",
            "use crate::state::State; // crate::client::Session",
        ),
        (
            "state/a.rs",
            "/// crate::node /* */\nconst A: &str = \"crate::node\\\" crate::node\";",
        ),
        (
            "state/a.rs",
            "const A: &str = r#\"crate::node\" \"#; const B: char = '\"'; fn f<'a>() {}",
        ),
        (
            "state/a.rs",
            "#[cfg(test)] mod tests { use rand::Rng; use super::super::State; }",
        ),
        ("state/model.rs", "use rand::Rng;"),
        (
            "consensus/mod.rs",
            "mod raft; pub use raft::RaftCore; use std::net::IpAddr;",
        ),
        (
            "consensus/raft/mod.rs",
            "use raft::RawNode; use crate::storage::Storage;",
        ),
        (
            "recipes/lock.rs",
            "use crate::{Error, Node, Builder}; use super::Guard;",
        ),
        ("client/mod.rs", "use crate::node::Node; impl Node {}"),
    ] {
        assert_eq!(with(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

/// The files of `src`, by path.
struct Source {
    files: BTreeMap<String, Vec<Token>>,
    /// Modules that are compiled for tests alone, as `a::b`.
    for_tests: BTreeSet<String>,
    /// What `lib.rs` shows of its modules: the name, and the module it comes from.
    shown: BTreeMap<String, String>,
}

impl Source {
    fn read(src: &Path) -> Source {
        let mut files = Vec::new();
        let mut folders = vec![src.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("src can be read") {
                let path = entry.expect("src can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(src).expect("it is below src");
                    let text = std::fs::read_to_string(&path).expect("it is text");
                    files.push((name.to_str().expect("plain names").replace('\\', "/"), text));
                }
            }
        }
        Source::of(files)
    }

    fn of(files: impl IntoIterator<Item = (String, String)>) -> Source {
        let files: BTreeMap<_, _> = files
            .into_iter()
            .map(|(name, text)| (name, tokens(&text)))
            .collect();
        let mut for_tests = BTreeSet::new();
        let mut shown = BTreeMap::new();
        for (name, tokens) in &files {
            let module = module_of(name);
            for found in scan(tokens, &module) {
                match found {
                    Found::TestModule(path) => {
                        for_tests.insert(path.join("::"));
                    }
                    Found::Path { path, name, .. } if module.is_empty() && path.len() > 1 => {
                        shown.insert(name, path[0].clone());
                    }
                    Found::Path { .. } => {}
                }
            }
        }
        Source {
            files,
            for_tests,
            shown,
        }
    }

    /// Every broken rule, as `file:line: what: rule`.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (name, tokens) in &self.files {
            let module = module_of(name);
            let Some(own) = module.first().filter(|_| name != "lib.rs") else {
                continue;
            };
            if floor_of(own).is_none() {
                broken.push(format!(
                    "src/{name}: `{own}` has no floor: give it one in tests/floors.rs"
                ));
                continue;
            }
            let mut lines = BTreeSet::new();
            for found in scan(tokens, &module) {
                let Found::Path {
                    line, path, inside, ..
                } = found
                else {
                    continue;
                };
                let text = path.join("::");
                if let Some(rule) = self.rule_broken_by(&inside, &path)
                    && lines.insert((line, rule.clone()))
                {
                    broken.push(format!("src/{name}:{line}: `{text}`: {rule}"));
                }
            }
        }
        broken
    }

    fn is_for_tests(&self, module: &[String]) -> bool {
        (1..=module.len()).any(|depth| self.for_tests.contains(&module[..depth].join("::")))
    }

    fn rule_broken_by(&self, inside: &[String], path: &[String]) -> Option<String> {
        let own = inside[0].as_str();
        match path[0].as_str() {
            "crate" => self.floor_broken_by(own, path.get(1)?),
            _ if self.is_for_tests(inside) => None,
            _ => foreign_broken_by(&inside.join("::"), own, &path.join("::")),
        }
    }

    /// What is wrong with `own` using `crate::{first}`.
    fn floor_broken_by(&self, own: &str, first: &str) -> Option<String> {
        let shown = self.shown.get(first);
        let target = shown.map_or(first, String::as_str);
        if target == own {
            return None;
        }
        // Macros and what lib.rs itself defines have no floor.
        let (above, below) = (floor_of(own)?, floor_of(target)?);
        if below > above {
            return Some(format!(
                "`{own}` is on floor {above} and must not know `{target}` on floor {below}: imports point only downwards"
            ));
        }
        if below == above && above > 0 {
            return Some(format!(
                "`{own}` must not know `{target}`, which is on the same floor"
            ));
        }
        if USERS.contains(&own) && shown.is_none() && !self.is_public(target) {
            return Some(format!(
                "`{own}` uses the public API alone, and `{target}` is private"
            ));
        }
        let (_, unknown) = UNKNOWN_TO.iter().find(|(module, _)| *module == own)?;
        unknown
            .contains(&target)
            .then(|| format!("`{own}` must never know `{target}`"))
    }

    fn is_public(&self, module: &str) -> bool {
        let lib = self.files.get("lib.rs").map_or(&[][..], Vec::as_slice);
        lib.windows(3).any(|three| {
            three[0].text == "pub" && three[1].text == "mod" && three[2].text == module
        })
    }
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, floor)| *floor)
}

/// What is wrong with a path into another crate.
fn foreign_broken_by(inside: &str, own: &str, path: &str) -> Option<String> {
    let begins = |path: &str, prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if own == "testing" {
        return None;
    }
    for (name, places) in CONFINED {
        if begins(path, name) && !places.iter().any(|place| begins(inside, place)) {
            return Some(format!(
                "only {} may know the crate `{name}`",
                places.join(", ")
            ));
        }
    }
    if !PURE.contains(&own) {
        return None;
    }
    let clock = ["Instant::now", "SystemTime::now"]
        .iter()
        .find(|now| path.ends_with(*now));
    let impure = IMPURE
        .iter()
        .find(|impure| begins(path, impure))
        .or(clock)?;
    Some(format!("`{own}` is sans-IO and must never know `{impure}`"))
}

/// The module that a file is: `state/tree/mod.rs` is `state::tree`.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut module: Vec<String> = stem.split('/').map(str::to_string).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

/// A word or a sign of the source, and its line.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

/// The words and signs of a source text, without comments, strings and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut index, mut line) = (Vec::new(), 0, 1);
    while index < chars.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                    if depth == 0 || index >= chars.len() {
                        break;
                    }
                }
            }
            '"' => index = after_string(&chars, index),
            'r' | 'b' if raw_string(&chars, index).is_some() => {
                index = raw_string(&chars, index).expect("it was just found");
            }
            // A character, or else a lifetime.
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                while index < chars.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            '\'' => {
                index += 1;
                while is_word(at(index)) {
                    index += 1;
                }
            }
            c if is_word(c) => {
                while is_word(at(index)) {
                    index += 1;
                }
                tokens.push(Token {
                    text: chars[start..index].iter().collect(),
                    line,
                });
            }
            ':' if at(index + 1) == ':' => {
                index += 2;
                tokens.push(Token {
                    text: "::".to_string(),
                    line,
                });
            }
            c => {
                index += 1;
                if !c.is_whitespace() {
                    tokens.push(Token {
                        text: c.to_string(),
                        line,
                    });
                }
            }
        }
        line += chars[start..index.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    tokens
}

/// Where a string ends that begins at the quote at `index`.
fn after_string(chars: &[char], mut index: usize) -> usize {
    index += 1;
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// Where a raw string ends that begins at `index`, if one does.
fn raw_string(chars: &[char], mut index: usize) -> Option<usize> {
    if chars[index] == 'b' {
        index += 1;
    }
    if chars.get(index) != Some(&'r') {
        return None;
    }
    index += 1;
    let hashes = chars[index..].iter().take_while(|c| **c == '#').count();
    index += hashes;
    if chars.get(index) != Some(&'"') {
        return None;
    }
    let end: String = format!("\"{}", "#".repeat(hashes));
    let end: Vec<char> = end.chars().collect();
    let rest = &chars[index + 1..];
    let length = rest.windows(end.len()).position(|window| window == end)?;
    Some(index + 1 + length + end.len())
}

/// What a file says that matters here.
enum Found {
    /// `#[cfg(test)] mod name`: the module.
    TestModule(Vec<String>),
    /// A path: resolved to begin with `crate`, or with another crate's name. In `lib.rs`, as it is.
    Path {
        line: usize,
        path: Vec<String>,
        /// What it is called here: its last segment, or the one after `as`.
        name: String,
        /// The module that it stands in.
        inside: Vec<String>,
    },
}

fn scan(tokens: &[Token], module: &[String]) -> Vec<Found> {
    let declared: BTreeSet<&str> = tokens
        .windows(2)
        .filter(|two| two[0].text == "mod")
        .map(|two| two[1].text.as_str())
        .collect();
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let is_name = |word: &str| word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut found = Vec::new();
    // Inline modules that the scan is in, with the depth of braces outside of each.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut index) = (0_usize, 0);
    while index < tokens.len() {
        let inside: Vec<String> = module
            .iter()
            .chain(inline.iter().map(|(name, _)| name))
            .cloned()
            .collect();
        match text(index) {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(_, outside)| *outside == depth);
            }
            "mod" if is_name(text(index + 1)) => {
                let name = text(index + 1).to_string();
                let cfg: String = (index.saturating_sub(7)..index).map(text).collect();
                if cfg.ends_with("#[cfg(test)]") || cfg.ends_with("[cfg(test)]pub") {
                    let path = inside.iter().cloned().chain([name.clone()]).collect();
                    found.push(Found::TestModule(path));
                }
                if text(index + 2) == "{" {
                    inline.push((name, depth));
                }
                index += 1;
            }
            // The beginning of a path: a word before `::` that no `::` precedes, unless that is a
            // leading one.
            word if is_name(word)
                && text(index + 1) == "::"
                && (index == 0
                    || text(index - 1) != "::"
                    || (!is_name(text(index.wrapping_sub(2)))
                        && text(index.wrapping_sub(2)) != ">")) =>
            {
                let mut paths = Vec::new();
                index = read_paths(tokens, index, &[], &mut paths);
                for (line, path, name) in paths {
                    found.push(Found::Path {
                        line,
                        path: resolve(path, &inside, &declared),
                        name,
                        inside: inside.clone(),
                    });
                }
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// Reads the path that begins at `index`, all branches of it where it has braces, and returns what
/// comes after it.
fn read_paths(
    tokens: &[Token],
    mut index: usize,
    prefix: &[String],
    paths: &mut Vec<(usize, Vec<String>, String)>,
) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let is_name = |word: &str| word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let line = tokens[index].line;
    let mut path = prefix.to_vec();
    loop {
        if text(index) == "{" {
            index += 1;
            while index < tokens.len() && text(index) != "}" {
                index = match text(index) {
                    "," => index + 1,
                    _ => read_paths(tokens, index, &path, paths),
                };
            }
            return index + 1;
        }
        if !is_name(text(index)) {
            // A turbofish, a glob, or what this scan doesn't know.
            index += 1;
            break;
        }
        path.push(text(index).to_string());
        index += 1;
        if text(index) != "::" {
            break;
        }
        index += 1;
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if text(index) == "as" {
        name = text(index + 1).to_string();
        index += 2;
    }
    paths.push((line, path, name));
    index
}

/// A path as seen from `inside`, which may begin at a module that the file declares, from the crate's
/// root.
fn resolve(path: Vec<String>, inside: &[String], declared: &BTreeSet<&str>) -> Vec<String> {
    if inside.is_empty() {
        return path;
    }
    let mut from = inside.to_vec();
    let mut rest = &path[..];
    while let Some(first) = rest.first() {
        match first.as_str() {
            "super" => drop(from.pop()),
            "self" => {}
            _ => break,
        }
        rest = &rest[1..];
    }
    if rest.len() < path.len() || declared.contains(path[0].as_str()) {
        from.insert(0, "crate".to_string());
        from.extend_from_slice(rest);
        return from;
    }
    path
}
