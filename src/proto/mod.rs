//! The protobuf schema of everything that leaves the process, and its translation to our own types.
//!
//! Floor 0. Decoding checks every field: what it returns needs no further checks of form.

mod batch;
mod codec;
mod shape;

pub(crate) use batch::{Batch, Rules};
pub(crate) use codec::{RecordError, decode, decode_request, encode, encode_op, node};
#[cfg(test)]
pub(crate) use shape::ShapeError;
pub(crate) use shape::{PARTS_MAX, Shape, Shaped, check as check_shape, check_op, nested, plain};

/// What the generator made of the `.proto` files in this folder.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    mismatched_lifetime_syntaxes,
    renamed_and_removed_lints,
    unused,
    rust_2018_idioms
)]
pub(crate) mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub(crate) use generated::{quorate as records, snapshot};
