//! What is served on each socket: the Workload API, and health and reflection beside it.

use tonic::service::Routes;
use tonic_reflection::{pb, server::Builder};

use super::WorkloadApi;
use crate::{dev::DevError, workload_api_proto::spiffe_workload_api_server::SpiffeWorkloadApiServer};

/// The Workload API and all messages in it.
const WORKLOAD_API: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));

/// All services of one socket.
///
/// # Errors
/// When the descriptors do not fit together: a defect of the build.
pub(in crate::dev) async fn services(api: WorkloadApi) -> Result<Routes, DevError> {
    // An issuer that can answer at all serves.
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<SpiffeWorkloadApiServer<WorkloadApi>>().await;
    let v1 = builder().build_v1().map_err(DevError::Descriptors)?;
    let v1alpha = builder().build_v1alpha().map_err(DevError::Descriptors)?;
    let routes = Routes::new(SpiffeWorkloadApiServer::new(api));
    Ok(routes.add_service(health).add_service(v1).add_service(v1alpha).prepare())
}

fn builder() -> Builder<'static> {
    [WORKLOAD_API, tonic_health::pb::FILE_DESCRIPTOR_SET, pb::v1::FILE_DESCRIPTOR_SET, pb::v1alpha::FILE_DESCRIPTOR_SET]
        .into_iter()
        .fold(Builder::configure().include_reflection_service(false), Builder::register_encoded_file_descriptor_set)
}
