//! Compiles `proto/` without `protoc`: Rust code for the Workload API, descriptors alone for what reflection describes.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

/// The discovery services, and the messages that travel inside an `Any`, which no service refers to.
const REFLECTED: [&str; 4] = [
    "envoy/service/secret/v3/sds.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("workload.proto")?;
    let workload = compiler.file_descriptor_set();
    fs::write(out.join("workload.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Keys arrive in the transport's own buffer and are copied once, into a zeroizing one.
        .bytes(".")
        // What carries keys and tokens shows them to nobody: `src/workload_api_proto.rs` writes these by hand.
        .skip_debug(["X509SVID", "JWTSVID", "ValidateJWTSVIDRequest"])
        .compile_fds(workload)?;

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(REFLECTED)?;
    fs::write(out.join("reflected.bin"), compiler.file_descriptor_set().encode_to_vec())?;
    Ok(())
}
