//! Taking numbers, texts and lists out of a frame.

use std::borrow::Cow;

/// What was to be read isn't there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub &'static str);

/// Reads one frame from its start.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.rest.len() {
            return Err(Malformed("the frame ends within a record"));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.take(1)?[0] != 0)
    }

    pub(crate) fn int(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?.try_into().expect("four were taken");
        Ok(i32::from_be_bytes(bytes))
    }

    pub(crate) fn long(&mut self) -> Result<i64, Malformed> {
        let bytes = self.take(8)?.try_into().expect("eight were taken");
        Ok(i64::from_be_bytes(bytes))
    }

    /// Bytes; Java's `null`, a length of -1, is none at all.
    pub(crate) fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => {
                let length =
                    usize::try_from(length).map_err(|_| Malformed("a length is negative"))?;
                self.take(length)
            }
        }
    }

    /// Text; `null` is an empty one, as some clients write it. What isn't UTF-8 becomes U+FFFD, as in
    /// ZooKeeper, and is in no valid path then.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.buffer().map(String::from_utf8_lossy)
    }

    /// The length of a list whose elements take at least `element_bytes_min` each: never more than can
    /// still follow. A negative one is that of an empty list, as in ZooKeeper.
    pub(crate) fn list(&mut self, element_bytes_min: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.int()?).unwrap_or(0);
        if count > self.rest.len() / element_bytes_min {
            return Err(Malformed("a list is longer than its frame"));
        }
        Ok(count)
    }
}
