//! Putting numbers, texts and stats behind one another.

use crate::{Acl, Stat};

/// What was to be written is longer than it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooLong;

/// The longest frame: its length is a positive number of 32 bits.
const FRAME_BYTES_MAX: usize = i32::MAX as usize;

/// Appends records to a buffer, and frames around them.
///
/// What goes beyond its limit is left out, with all that follows: whoever has written it asks in the end
/// whether that was so, and throws away what there is.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// How long the buffer may become.
    end: usize,
    is_too_long: bool,
}

impl<'a> Writer<'a> {
    /// Of up to 2 GiB.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer::limited(out, FRAME_BYTES_MAX)
    }

    /// Of up to `bytes_max` more bytes.
    pub(crate) fn limited(out: &'a mut Vec<u8>, bytes_max: usize) -> Writer<'a> {
        let end = out.len().saturating_add(bytes_max.min(FRAME_BYTES_MAX));
        let is_too_long = false;
        Writer {
            out,
            end,
            is_too_long,
        }
    }

    /// A frame: its length, and what `write` puts into it. What is too long for one isn't there at all.
    pub(crate) fn frame(
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), TooLong> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut writer = Writer::new(out);
        write(&mut writer);
        let is_too_long = writer.is_too_long;
        let length = i32::try_from(out.len() - start - 4).map_err(|_| TooLong);
        match length {
            Ok(length) if !is_too_long => {
                out[start..start + 4].copy_from_slice(&length.to_be_bytes());
                Ok(())
            }
            _ => {
                out.truncate(start);
                Err(TooLong)
            }
        }
    }

    /// Whether all that was written is there.
    pub(crate) fn finish(&self) -> Result<(), TooLong> {
        match self.is_too_long {
            true => Err(TooLong),
            false => Ok(()),
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.is_too_long |= bytes.len() > self.end - self.out.len();
        if !self.is_too_long {
            self.out.extend_from_slice(bytes);
        }
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.raw(&[u8::from(value)]);
    }

    pub(crate) fn int(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn long(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// A length or a count.
    pub(crate) fn count(&mut self, count: usize) {
        match i32::try_from(count) {
            Ok(count) => self.int(count),
            Err(_) => self.is_too_long = true,
        }
    }

    pub(crate) fn buffer(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// Java's `null`.
    pub(crate) fn no_buffer(&mut self) {
        self.int(-1);
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.buffer(text.as_bytes());
    }

    pub(crate) fn stat(&mut self, stat: &Stat) {
        self.long(stat.czxid.0 as i64);
        self.long(stat.mzxid.0 as i64);
        self.long(stat.ctime_ms);
        self.long(stat.mtime_ms);
        self.int(stat.version);
        self.int(stat.cversion);
        self.int(stat.aversion);
        self.long(stat.ephemeral_owner.0);
        self.count(stat.data_length as usize);
        self.count(stat.children_count as usize);
        self.long(stat.pzxid.0 as i64);
    }

    pub(crate) fn acl(&mut self, acl: &[Acl]) {
        self.count(acl.len());
        for entry in acl {
            self.int(entry.permissions.0 as i32);
            self.string(&entry.id.scheme);
            self.string(&entry.id.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_told_of_and_never_written() {
        let mut out = b"before".to_vec();
        let mut writer = Writer::limited(&mut out, 16);
        writer.buffer(b"12345678");
        assert_eq!(writer.finish(), Ok(()));
        writer.long(1);
        // A short one doesn't slip in behind it.
        writer.int(2);
        assert_eq!(writer.finish(), Err(TooLong));
        assert_eq!(out, b"before\0\0\0\x0812345678");
    }

    #[test]
    fn a_list_that_no_number_counts_makes_no_frame() {
        let mut out = b"before".to_vec();
        let frame = Writer::frame(&mut out, |writer| writer.count(usize::MAX));
        assert_eq!((frame, out), (Err(TooLong), b"before".to_vec()));
    }
}
