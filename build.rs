//! Compiles `proto/` without `protoc`, and keeps the descriptor set for gRPC reflection.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");

    let workload = protox::compile(["workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Keys arrive in the transport's own buffer and are copied once, into a zeroizing one.
        .bytes(".")
        // What carries keys and tokens shows them to nobody: `src/workload_api_proto.rs` writes these by hand.
        .skip_debug(["X509SVID", "JWTSVID", "ValidateJWTSVIDRequest"])
        .compile_fds(workload.clone())?;
    fs::write(out.join("workload.bin"), workload.encode_to_vec())?;
    Ok(())
}
