//! Create, in all its modes (ZooKeeper's `PrepRequestProcessor.pRequest2TxnCreate`).

use std::borrow::Cow;

use crate::acl::{Acl, Permissions};
use crate::error::{Error, Result};
use crate::op::{CreateMode, OpResult, Outcome};
use crate::path::{self, ZnodePath};
use crate::state::authorize;
use crate::state::quota::Usage;
use crate::state::settings::Settings;
use crate::state::tree::Owner;
use crate::state::znodes::{Write, Znodes, is_open, no_node};

impl Znodes {
    /// Creates a znode. The order of the checks is ZooKeeper's.
    pub(crate) fn create(
        &mut self,
        write: &mut Write<'_>,
        path: &str,
        data: &[u8],
        acl: &[Acl],
        mode: CreateMode,
    ) -> Outcome {
        check_data_length(&self.settings, data)?;
        check_time_to_live(&self.settings, mode)?;
        let parent_path = parent_of_unchecked(path)?;
        let acl = match is_open(acl) {
            true => Cow::Borrowed(acl),
            false => Cow::Owned(authorize::expand(
                path,
                acl,
                write.identities,
                &self.settings,
            )?),
        };
        let parent = self
            .tree
            .get(parent_path)
            .ok_or_else(|| no_node(parent_path))?;
        self.authorize(
            write,
            parent.acl,
            (Permissions::CREATE, "create"),
            parent_path,
        )?;
        let path = match mode.is_sequential() {
            // The number may come out negative once the counter has overflowed, as in ZooKeeper.
            true => ZnodePath::parse(&format!("{path}{:010}", parent.cversion))?,
            false => ZnodePath::parse(path)?,
        };
        if self.tree.contains(path.as_str()) {
            return Err(Error::NodeExists {
                path: path.to_string(),
            });
        }
        if parent.owner.is_ephemeral() {
            return Err(Error::NoChildrenForEphemerals {
                parent: parent_path.to_string(),
            });
        }
        // What is not held any more needn't be copied when the parent gets its child.
        drop(parent);
        self.check_quota(
            path.as_str(),
            Usage {
                count: 1,
                bytes: data.len() as i64,
            },
        )?;
        let owner = match mode {
            CreateMode::Persistent | CreateMode::PersistentSequential => Owner::NONE,
            CreateMode::Ephemeral | CreateMode::EphemeralSequential => {
                Owner::ephemeral(write.session)
            }
            CreateMode::Container => Owner::CONTAINER,
            CreateMode::PersistentWithTtl { ttl_ms }
            | CreateMode::PersistentSequentialWithTtl { ttl_ms } => Owner::ttl(ttl_ms),
        };
        let created = path.to_string();
        let stat = self.insert(write, path, data, owner, &acl);
        Ok(OpResult::Created {
            path: created,
            stat,
        })
    }
}

/// # Errors
/// [`Error::TooLarge`].
pub(crate) fn check_data_length(settings: &Settings, data: &[u8]) -> Result<()> {
    let (found, limit) = (data.len() as u64, u64::from(settings.data_bytes_max));
    if found > limit {
        return Err(Error::TooLarge {
            what: "data in bytes",
            found,
            limit,
        });
    }
    Ok(())
}

fn check_time_to_live(settings: &Settings, mode: CreateMode) -> Result<()> {
    let Some(ttl_ms) = mode.ttl_ms() else {
        return Ok(());
    };
    if !settings.ttl_enabled {
        return Err(Error::Unimplemented {
            what: "znodes with a time to live",
        });
    }
    if !(1..=Owner::TTL_MS_MAX).contains(&ttl_ms) {
        return Err(Error::BadArguments {
            reason: format!(
                "a time to live of {ttl_ms} ms is not within 1 to {}",
                Owner::TTL_MS_MAX
            ),
        });
    }
    Ok(())
}

/// The parent of a path that isn't checked yet: with a number appended it may become valid.
///
/// # Errors
/// [`Error::InvalidPath`] where it has no `/` or contains NUL.
fn parent_of_unchecked(path: &str) -> Result<&str> {
    match path.rfind('/') {
        Some(slash) if !path.contains('\0') => Ok(&path[..slash.max(1)]),
        _ => {
            path::validate(path)?;
            Err(Error::System {
                reason: format!("{path:?} passes as a path"),
            })
        }
    }
}
