//! Compiles `proto/` without `protoc`: Rust code for the Workload API, descriptors alone for what reflection describes.

use std::{env, fs, path::PathBuf, process::Command};

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

    // Not with our prefix: cargo sets these for what it runs too, and a variable that names no key stops the start.
    println!("cargo:rustc-env=BUILD_COMMIT={}", commit());
    let features = ["dev-issuer", "otlp"];
    let built = |name: &&str| env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase().replace('-', "_"))).is_some();
    let features: Vec<_> = features.into_iter().filter(built).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(" ") };
    println!("cargo:rustc-env=BUILD_FEATURES={features}");

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

/// What is built: the variable, for builds without a repository (images, packages), else what git says. Not in development,
/// where each commit would compile everything anew.
fn commit() -> String {
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    if let Some(commit) = env::var("BUILD_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return "development build".to_owned();
    }
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).output();
    let said = git.ok().filter(|git| git.status.success()).and_then(|git| String::from_utf8(git.stdout).ok());
    said.map_or_else(|| "unknown commit".to_owned(), |commit| commit.trim().to_owned())
}
