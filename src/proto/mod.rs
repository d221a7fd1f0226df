//! The protobuf messages: what snapshots hold, and what peers tell each other. Generated at build
//! time from the `.proto` files of this folder; floor 0, plain data.

// None of it is written by hand.
#![allow(warnings, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/mod.rs"));
