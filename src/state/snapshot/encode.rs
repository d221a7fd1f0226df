//! Writing a snapshot: records, each after its length, in chunks.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use protobuf::{Message as _, RepeatedField, SingularPtrField};

use super::{FORMAT, outcome};
use crate::acl::{Acl, AuthId};
use crate::ids::SessionId;
use crate::proto::Rules;
use crate::proto::snapshot as records;
use crate::proto::snapshot::Record_oneof_kind as Kind;
use crate::state::State;
use crate::state::acl_table::{AclIndex, AclLists, OPEN_ACL};
use crate::state::sessions::{KeptResult, Session, SessionMap};
use crate::state::settings::Settings;
use crate::state::tree::{FrozenTree, Znode};

/// The usual size of a chunk.
const CHUNK_BYTES: usize = 256 * 1024;

/// The state as of one publish, to be encoded by another thread while writes go on.
pub(crate) struct Frozen {
    header: records::Header,
    sessions: SessionMap,
    acls: AclLists,
    tree: FrozenTree,
}

impl State {
    /// Freezes what is published, in the same time for any size. `None` while the frozen state before
    /// is still being encoded.
    ///
    /// # Panics
    /// If there are writes that aren't published.
    pub(crate) fn freeze(&mut self) -> Option<Frozen> {
        assert_eq!(
            self.znodes.tree.published(),
            self.zxid,
            "only what is published is frozen"
        );
        Some(Frozen {
            tree: self.znodes.tree.freeze()?,
            header: self.header(),
            sessions: self.sessions.map().clone(),
            acls: self.znodes.acls.lists().clone(),
        })
    }

    /// A number that is the same for equal states, unpublished writes included. It takes as long as a
    /// snapshot.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn digest(&self) -> u64 {
        use sha1::Digest as _;
        let mut sha1 = sha1::Sha1::new();
        let mut encoder = Encoder::default();
        encoder.record(Kind::header(self.header()));
        for (id, session) in self.sessions() {
            encoder.session(id, session);
            sha1.update(std::mem::take(&mut encoder.buffer));
        }
        for znode in self.znodes.tree.walk("/") {
            encoder.znode(&znode, self.znodes.acls.lists());
            sha1.update(std::mem::take(&mut encoder.buffer));
        }
        let hash = sha1.finalize();
        u64::from_be_bytes(hash[..8].try_into().expect("SHA-1 has 20 bytes"))
    }

    fn header(&self) -> records::Header {
        records::Header {
            format: FORMAT,
            zxid: self.zxid.0,
            time_ms: self.time_ms,
            quota_soft_exceeded: self.znodes.soft_quota_exceeded,
            settings: SingularPtrField::some(settings_record(&self.znodes.settings)),
            // As a program wrote it that knew of no others, so that equal states stay equal bytes.
            rules: match self.rules {
                Rules::FIRST => 0,
                rules => rules.number(),
            },
            ..Default::default()
        }
    }
}

impl Frozen {
    /// Marks it as what a node begins with that joins: the log entry as of which it had no part in it yet.
    pub(crate) fn joined_as_of(mut self, index: u64) -> Frozen {
        self.header.joined_as_of = index;
        self
    }

    /// The snapshot's bytes, in order, in chunks of 256 KiB.
    pub(crate) fn chunks(self) -> Chunks {
        self.chunks_of(CHUNK_BYTES)
    }

    /// The same bytes in chunks of this size: for who has to do something else in between.
    pub(crate) fn chunks_of(self, chunk_bytes: usize) -> Chunks {
        let mut encoder = Encoder::default();
        encoder.record(Kind::header(self.header));
        Chunks {
            chunk_bytes,
            encoder,
            crc: crc32fast::Hasher::new(),
            sessions: self.sessions.into_iter().collect::<Vec<_>>().into_iter(),
            tree: self.tree,
            acls: self.acls,
            ended: false,
        }
    }
}

/// The bytes of a snapshot: each chunk but the last one has its size, and at most a znode, or a session with
/// the results kept for it, more.
pub(crate) struct Chunks {
    chunk_bytes: usize,
    encoder: Encoder,
    /// Of all chunks given out.
    crc: crc32fast::Hasher,
    sessions: std::vec::IntoIter<(SessionId, Arc<Session>)>,
    tree: FrozenTree,
    acls: AclLists,
    ended: bool,
}

impl Iterator for Chunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while !self.ended && self.encoder.buffer.len() < self.chunk_bytes {
            if let Some((id, session)) = self.sessions.next() {
                self.encoder.session(id, &session);
            } else if let Some(znode) = self.tree.next() {
                self.encoder.znode(&znode, &self.acls);
            } else {
                self.end();
            }
        }
        let chunk = self.encoder.take_chunk();
        self.crc.update(&chunk);
        (!chunk.is_empty()).then_some(chunk)
    }
}

impl Chunks {
    /// The size of the chunks from here on.
    pub(crate) fn set_chunk_bytes(&mut self, chunk_bytes: usize) {
        self.chunk_bytes = chunk_bytes;
    }

    fn end(&mut self) {
        let mut crc = self.crc.clone();
        crc.update(&self.encoder.buffer);
        let footer = records::Footer {
            crc32: crc.finalize(),
            ..self.encoder.counts.clone()
        };
        self.encoder.record(Kind::footer(footer));
        self.ended = true;
    }
}

/// Makes records of the parts of a state.
#[derive(Default)]
struct Encoder {
    buffer: Vec<u8>,
    /// The footer as far as it is known.
    counts: records::Footer,
    /// The number in this stream of each ACL that was written.
    acl_numbers: HashMap<AclIndex, u32, foldhash::fast::FixedState>,
}

impl Encoder {
    fn record(&mut self, kind: Kind) {
        let record = records::Record {
            kind: Some(kind),
            ..Default::default()
        };
        // Writing to memory fails only for a message with an unset required field, which proto3 has not.
        record
            .write_length_delimited_to_vec(&mut self.buffer)
            .expect("a proto3 message is always complete");
    }

    fn take_chunk(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    fn session(&mut self, id: SessionId, session: &Session) {
        self.counts.sessions += 1;
        self.record(Kind::session(records::Session {
            id: id.0,
            password: Bytes::copy_from_slice(&session.password),
            timeout_ms: session.timeout_ms,
            owner: session.owner.as_u64(),
            attachment: session.attachment,
            last_sequence: session.last_sequence,
            identities: session.identities.iter().map(identity_record).collect(),
            nonces: session.nonces.iter().copied().collect(),
            ..Default::default()
        }));
        for kept in &session.kept {
            self.counts.results += 1;
            self.record(Kind::result(kept_record(kept)));
        }
    }

    fn znode(&mut self, znode: &Znode, acls: &AclLists) {
        let acl = self.acl(znode.acl, acls);
        self.counts.znodes += 1;
        self.record(Kind::znode(records::Znode {
            path: znode.path.to_string(),
            data: Bytes::copy_from_slice(&znode.data),
            acl,
            czxid: znode.czxid.0,
            mzxid: znode.mzxid.0,
            pzxid: znode.pzxid.0,
            ctime_ms: znode.ctime_ms,
            mtime_ms: znode.mtime_ms,
            version: znode.version,
            cversion: znode.cversion,
            aversion: znode.aversion,
            ephemeral_owner: znode.owner.as_raw(),
            ..Default::default()
        }));
    }

    /// The number of an ACL in this stream; its record comes first when it is new.
    fn acl(&mut self, index: AclIndex, acls: &AclLists) -> u32 {
        if index == OPEN_ACL {
            return 0;
        }
        if let Some(&number) = self.acl_numbers.get(&index) {
            return number;
        }
        let number = self.acl_numbers.len() as u32 + 1;
        self.acl_numbers.insert(index, number);
        self.counts.acls += 1;
        let acl = acls
            .get(index)
            .expect("a frozen znode's ACL is frozen with it");
        self.record(Kind::acl(records::AccessList {
            entries: acl.iter().map(entry_record).collect(),
            ..Default::default()
        }));
        number
    }
}

fn settings_record(settings: &Settings) -> records::Settings {
    records::Settings {
        data_bytes_max: settings.data_bytes_max,
        multi_ops_max: settings.multi_ops_max,
        multi_bytes_max: settings.multi_bytes_max,
        acl_entries_max: settings.acl_entries_max,
        session_timeout_min_ms: settings.session_timeout_min_ms,
        session_timeout_max_ms: settings.session_timeout_max_ms,
        results_kept_max: settings.results_kept_max,
        enforce_quota: settings.enforce_quota,
        ttl_enabled: settings.ttl_enabled,
        auth_schemes: RepeatedField::from_vec(settings.auth_schemes.clone()),
        ..Default::default()
    }
}

fn identity_record(id: &AuthId) -> records::Identity {
    records::Identity {
        scheme: id.scheme.clone(),
        id: id.id.clone(),
        ..Default::default()
    }
}

fn entry_record(acl: &Acl) -> records::Entry {
    records::Entry {
        permissions: acl.permissions.0,
        identity: SingularPtrField::some(identity_record(&acl.id)),
        ..Default::default()
    }
}

fn kept_record(kept: &KeptResult) -> records::KeptResult {
    records::KeptResult {
        sequence: kept.sequence,
        zxid: kept.zxid.0,
        outcome: Some(outcome::record(&kept.outcome)),
        ..Default::default()
    }
}
