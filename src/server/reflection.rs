//! gRPC reflection: what is served here, for `grpcurl` and its like.

use tonic::service::Routes;
use tonic_reflection::{pb, server::Builder};

/// The discovery services and all messages in them, trimmed to what is read and written here (`proto/README.md`).
const REFLECTED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reflected.bin"));

/// Adds both versions of the reflection service; each tells of both, so that whatever a client lists is all there is.
///
/// # Errors
/// When the descriptors do not fit together: a defect of the build, which the test here finds.
pub(super) fn add(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

fn builder() -> Builder<'static> {
    [REFLECTED, tonic_health::pb::FILE_DESCRIPTOR_SET, pb::v1::FILE_DESCRIPTOR_SET, pb::v1alpha::FILE_DESCRIPTOR_SET]
        .into_iter()
        .fold(Builder::configure().include_reflection_service(false), Builder::register_encoded_file_descriptor_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_fit_together() {
        add(Routes::default()).unwrap();
    }
}
