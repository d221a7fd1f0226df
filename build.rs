//! Generates the protobuf messages of `src/proto/*.proto`, without an installed `protoc`.

use std::path::PathBuf;

/// Every schema of the crate.
const SCHEMAS: &[&str] = &["src/proto/snapshot.proto"];

fn main() {
    for schema in SCHEMAS {
        println!("cargo:rerun-if-changed={schema}");
    }
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    protobuf_codegen_pure::Codegen::new()
        .out_dir(&out_dir)
        .include("src/proto")
        .inputs(SCHEMAS)
        .customize(protobuf_codegen_pure::Customize {
            carllerche_bytes_for_bytes: Some(true),
            // A file that is included can't begin with inner attributes; `src/proto/mod.rs` has them.
            gen_mod_rs: Some(true),
            lite_runtime: Some(true),
            ..Default::default()
        })
        .run()
        .expect("the schemas are valid");
}
