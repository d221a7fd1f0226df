//! Generates the Rust types of the protobuf schemas, in pure Rust: nobody needs `protoc` installed.

use protobuf_codegen_pure::{Codegen, Customize};

const SCHEMAS: &[&str] = &["src/proto/quorate.proto", "src/proto/snapshot.proto"];

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for schema in SCHEMAS {
        println!("cargo:rerun-if-changed={schema}");
    }
    Codegen::new()
        .out_dir(&out)
        .inputs(SCHEMAS)
        .include("src/proto")
        .customize(Customize {
            carllerche_bytes_for_bytes: Some(true),
            // A file that is included can't begin with inner attributes; this makes a `mod.rs` that can.
            gen_mod_rs: Some(true),
            lite_runtime: Some(true),
            ..Default::default()
        })
        .run()
        .expect("the schemas are valid");
}
