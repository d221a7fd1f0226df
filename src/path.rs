//! A znode's path, checked once (ZooKeeper's `PathUtils.validatePath`).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A valid path: absolute, `/`-separated, no trailing `/` but the root's, no empty, `.` or `..`
/// component, none of ZooKeeper's forbidden characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZnodePath(Arc<str>);

/// The longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 64 * 1024;

impl ZnodePath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] names the rule that it breaks.
    pub fn parse(path: &str) -> Result<ZnodePath> {
        validate(path)?;
        Ok(ZnodePath(Arc::from(path)))
    }

    /// The root, `/`.
    pub fn root() -> ZnodePath {
        ZnodePath(Arc::from("/"))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path whose text this is; it was one before.
    pub(crate) fn from_shared(text: Arc<str>) -> ZnodePath {
        ZnodePath(text)
    }

    /// The text, shared.
    pub(crate) fn shared(&self) -> &Arc<str> {
        &self.0
    }

    /// The path without its last component; `None` for the root.
    pub fn parent(&self) -> Option<&str> {
        parent(&self.0)
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        name(&self.0)
    }
}

/// The parent of a valid path; `None` for the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(0) | None => None,
        Some(slash) => Some(&path[..slash]),
    }
}

/// The last component of a valid path; empty for the root.
pub(crate) fn name(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[slash + 1..])
}

/// Whether `path` is `ancestor` or below it, component by component.
pub(crate) fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    ancestor == "/"
        || (path.starts_with(ancestor)
            && (path.len() == ancestor.len() || path.as_bytes()[ancestor.len()] == b'/'))
}

/// Checks a path against every rule of the sheet (section 5, *path*).
///
/// # Errors
/// [`Error::InvalidPath`].
pub(crate) fn validate(path: &str) -> Result<()> {
    let reason = if path.is_empty() {
        "it is empty"
    } else if path.len() > PATH_BYTES_MAX {
        "it is longer than 65536 bytes"
    } else if !path.starts_with('/') {
        "it doesn't start with /"
    } else if path.len() > 1 && path.ends_with('/') {
        "it ends with /"
    } else {
        match flaw_of_components(path) {
            Some(reason) => reason,
            None => return Ok(()),
        }
    };
    Err(Error::InvalidPath {
        path: path.chars().take(256).collect(),
        reason,
    })
}

fn flaw_of_components(path: &str) -> Option<&'static str> {
    let bytes = path.as_bytes();
    let mut component_start = 1;
    let mut plain = true;
    for at in 1..=bytes.len() {
        if at == bytes.len() || bytes[at] == b'/' {
            match &bytes[component_start..at] {
                [] if bytes.len() > 1 => return Some("it has an empty component"),
                b"." | b".." => return Some("it has a component . or .."),
                _ => component_start = at + 1,
            }
        } else {
            plain &= (0x20..0x7f).contains(&bytes[at]);
        }
    }
    if plain {
        return None;
    }
    path.chars().find_map(|character| match character {
        '\0' => Some("it contains NUL"),
        '\u{1}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => Some("it contains a control character"),
        '\u{e000}'..='\u{f8ff}' => Some("it contains a private use character"),
        '\u{fff0}'..='\u{ffff}' => Some("it contains a character of U+FFF0..U+FFFF"),
        // In UTF-16, which ZooKeeper looks at, these are pairs of U+D800..U+DFFF.
        '\u{10000}'.. => Some("it contains a character beyond U+FFFF"),
        _ => None,
    })
}

impl AsRef<str> for ZnodePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ZnodePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_paths_are_taken() {
        for path in [
            "/",
            "/a",
            "/a/b",
            "/a/.b",
            "/a/...",
            "/ä/日本",
            "/a b",
            "/zookeeper/quota",
        ] {
            assert_eq!(
                ZnodePath::parse(path).map(|p| p.to_string()),
                Ok(path.to_string())
            );
        }
    }

    #[test]
    fn every_rule_of_the_sheet_refuses_its_path() {
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        for (path, word) in [
            ("", "empty"),
            ("a", "start with"),
            ("a/b", "start with"),
            ("/a/", "ends with"),
            ("//", "ends with"),
            ("//a", "empty component"),
            ("/a//b", "empty component"),
            ("/.", ". or .."),
            ("/a/./b", ". or .."),
            ("/a/..", ". or .."),
            ("/a\0b", "NUL"),
            ("/a\u{1}", "control"),
            ("/a\u{1f}", "control"),
            ("/\u{7f}", "control"),
            ("/a\u{9f}/b", "control"),
            ("/\u{e000}", "private"),
            ("/\u{f8ff}", "private"),
            ("/\u{fff0}", "U+FFF0"),
            ("/\u{ffff}", "U+FFF0"),
            ("/a\u{1f600}", "beyond U+FFFF"),
            (long.as_str(), "longer"),
        ] {
            let error = ZnodePath::parse(path).unwrap_err();
            assert_eq!(error.code(), -8);
            assert!(error.to_string().contains(word), "{path:?}: {error}");
        }
    }

    #[test]
    fn parent_and_name_split_a_path() {
        assert_eq!((parent("/"), name("/")), (None, ""));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
    }

    #[test]
    fn below_is_by_component_not_by_prefix() {
        assert!(is_at_or_below("/a/b", "/a"));
        assert!(is_at_or_below("/a", "/a"));
        assert!(!is_at_or_below("/ab", "/a"));
        assert!(is_at_or_below("/a", "/"));
    }
}
