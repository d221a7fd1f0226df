//! Multi: all of its operations or none, as one write.

use crate::error::{Error, Result};
use crate::op::{Op, OpResult, Outcome};
use crate::state::znodes::{Write, Znodes};

impl Znodes {
    /// Applies the operations in order; each sees what those before it did. The first that fails takes
    /// everything back.
    pub(crate) fn multi(&mut self, write: &mut Write<'_>, ops: &[Op]) -> Outcome {
        self.check_multi(ops)?;
        self.begin(write);
        let mut results = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            match self.apply_in_multi(write, op) {
                Ok(result) => results.push(result),
                Err(error) => {
                    self.roll_back(write);
                    return Err(Error::Multi {
                        index,
                        error: Box::new(error),
                    });
                }
            }
        }
        self.commit();
        Ok(OpResult::Multi(results))
    }

    fn apply_in_multi(&mut self, write: &mut Write<'_>, op: &Op) -> Outcome {
        match op {
            Op::Create {
                path,
                data,
                acl,
                mode,
            } => self.create(write, path, data, acl, *mode),
            Op::Delete { path, version } => self.delete(write, path, *version),
            Op::SetData {
                path,
                data,
                version,
            } => self.set(write, path, data, *version),
            Op::Check { path, version } => self.check(write, path, *version),
            _ => Err(Error::BadArguments {
                reason: "a multi holds create, delete, set data and check only".to_string(),
            }),
        }
    }

    /// # Errors
    /// [`Error::TooLarge`].
    fn check_multi(&self, ops: &[Op]) -> Result<()> {
        let bytes = ops.iter().map(|op| match op {
            Op::Create { path, data, .. } | Op::SetData { path, data, .. } => {
                path.len() + data.len()
            }
            Op::Delete { path, .. } | Op::Check { path, .. } => path.len(),
            _ => 0,
        });
        for (what, found, limit) in [
            (
                "operations in a multi",
                ops.len(),
                self.settings.multi_ops_max,
            ),
            (
                "paths and data of a multi in bytes",
                bytes.sum(),
                self.settings.multi_bytes_max,
            ),
        ] {
            if found as u64 > u64::from(limit) {
                return Err(Error::TooLarge {
                    what,
                    found: found as u64,
                    limit: u64::from(limit),
                });
            }
        }
        Ok(())
    }
}
