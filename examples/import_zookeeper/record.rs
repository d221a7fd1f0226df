//! ZooKeeper's records, as far as a copy needs them.

use std::fmt;

/// Numbers and texts behind one another.
#[derive(Clone, Default)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl Body {
    pub(crate) fn int(mut self, value: i32) -> Body {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn long(mut self, value: i64) -> Body {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn bool(mut self, value: bool) -> Body {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Body {
        let mut body = self.int(i32::try_from(bytes.len()).expect("no frame is that long"));
        body.0.extend(bytes);
        body
    }

    pub(crate) fn acl(self, acl: &[Acl]) -> Body {
        let counted = self.int(i32::try_from(acl.len()).expect("no frame is that long"));
        acl.iter().fold(counted, |body, entry| {
            let body = body.int(entry.permissions);
            body.bytes(entry.scheme.as_bytes())
                .bytes(entry.id.as_bytes())
        })
    }
}

/// What was answered makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reply is cut")
    }
}

impl std::error::Error for Malformed {}

/// What is left of a reply.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn int(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(
            self.take(4)?.try_into().map_err(|_| Malformed)?,
        ))
    }

    pub(crate) fn long(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(
            self.take(8)?.try_into().map_err(|_| Malformed)?,
        ))
    }

    /// Bytes; Java's `null` is none.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.int()?.max(0);
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }

    /// A list of whatever `each` reads.
    pub(crate) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        (0..self.int()?.max(0)).map(|_| each(self)).collect()
    }

    pub(crate) fn acl(&mut self) -> Result<Vec<Acl>, Malformed> {
        self.list(|reader| {
            Ok(Acl {
                permissions: reader.int()?,
                scheme: reader.text()?,
                id: reader.text()?,
            })
        })
    }

    pub(crate) fn stat(&mut self) -> Result<Stat, Malformed> {
        self.take(36)?;
        let cversion = self.int()?;
        self.take(4)?;
        let ephemeral_owner = self.long()?;
        self.take(4)?;
        let children = self.int()?;
        self.take(8)?;
        Ok(Stat {
            ephemeral_owner,
            cversion,
            children,
        })
    }
}

/// One entry of an ACL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Acl {
    pub(crate) permissions: i32,
    pub(crate) scheme: String,
    pub(crate) id: String,
}

/// What a copy needs of a znode's stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stat {
    pub(crate) ephemeral_owner: i64,
    cversion: i32,
    children: i32,
}

impl Stat {
    /// How many children were ever created: the number that the next sequential one gets. What a client is
    /// shown is twice that less the number of children.
    pub(crate) fn counter(&self) -> i32 {
        ((i64::from(self.cversion) + i64::from(self.children)) / 2) as i32
    }
}
