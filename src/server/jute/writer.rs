//! Putting numbers, texts and stats behind one another.

use crate::{Acl, Stat};

/// Appends records to a buffer, and frames around them.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out }
    }

    /// A frame: its length, and what `write` puts into it.
    pub(crate) fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer<'_>)) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        write(&mut Writer::new(out));
        let length = i32::try_from(out.len() - start - 4).expect("frames are smaller than 2 GiB");
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    pub(crate) fn int(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn long(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// A length or a count.
    pub(crate) fn count(&mut self, count: usize) {
        self.int(i32::try_from(count).expect("lists and texts are smaller than 2 GiB"));
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
