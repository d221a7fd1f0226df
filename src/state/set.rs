//! Set data, set ACL, and the check of a version.

use crate::acl::{Acl, Permissions};
use crate::error::{Error, Result};
use crate::ids::Version;
use crate::op::{OpResult, Outcome};
use crate::path;
use crate::state::authorize;
use crate::state::create::check_data_length;
use crate::state::quota::Usage;
use crate::state::znodes::{Write, Znodes, no_node};

impl Znodes {
    /// Sets the data. The quota is asked before the version.
    pub(crate) fn set(
        &mut self,
        write: &mut Write<'_>,
        path: &str,
        data: &[u8],
        version: Version,
    ) -> Outcome {
        check_data_length(&self.settings, data)?;
        let znode = self.existing(path)?;
        self.authorize(write, znode.acl, (Permissions::WRITE, "write"), path)?;
        let length = znode.data.len();
        let found = znode.version;
        // What is not held any more needn't be copied when it is changed.
        drop(znode);
        self.check_quota(
            path,
            Usage {
                count: 0,
                bytes: data.len() as i64 - length as i64,
            },
        )?;
        check_version(path, version, found)?;
        Ok(OpResult::DataSet(self.set_data(write, path, data, length)))
    }

    /// Sets the ACL. That it is a valid one is asked before whether the znode exists.
    pub(crate) fn change_acl(
        &mut self,
        write: &mut Write<'_>,
        path: &str,
        acl: &[Acl],
        version: Version,
    ) -> Outcome {
        let znode = self.tree.get(path);
        if znode.is_none() {
            path::validate(path)?;
        }
        let acl = authorize::expand(path, acl, write.identities, &self.settings)?;
        let znode = znode.ok_or_else(|| no_node(path))?;
        self.authorize(write, znode.acl, (Permissions::ADMIN, "admin"), path)?;
        check_version(path, version, znode.aversion)?;
        drop(znode);
        Ok(OpResult::AclSet(self.set_acl(write, path, &acl)))
    }

    /// Checks the version of the data.
    pub(crate) fn check(&self, write: &Write<'_>, path: &str, version: Version) -> Outcome {
        let znode = self.existing(path)?;
        self.authorize(write, znode.acl, (Permissions::READ, "read"), path)?;
        check_version(path, version, znode.version)?;
        Ok(OpResult::Checked)
    }
}

fn check_version(path: &str, expected: Version, found: i32) -> Result<()> {
    if expected.matches(found) {
        return Ok(());
    }
    Err(Error::BadVersion {
        path: path.to_string(),
        expected,
        found,
    })
}
