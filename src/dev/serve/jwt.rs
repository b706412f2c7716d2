//! The calls about JWT-SVIDs. Only the bundles are a stream.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::{ListValue, Struct, Value as Wire, value::Kind};
use serde_json::Value;
use tonic::{Code, Status};

use super::{Mode, NO_IDENTITY, WorkloadApi};
use crate::{
    dev::JwtFault,
    identity::SpiffeId,
    workload_api_proto::{JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse},
};

impl WorkloadApi {
    pub(super) async fn jwt_svids(&self, request: &JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
        if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if !request.spiffe_id.is_empty() {
            // In SPIRE's words. An ID is refused in upper case, which the parser would mend.
            let invalid = |why: String| Status::invalid_argument(format!("invalid requested SPIFFE ID: {why}"));
            let id = SpiffeId::new(&request.spiffe_id).map_err(|error| invalid(error.to_string()))?;
            if id.to_string() != request.spiffe_id {
                return Err(invalid(format!("it is written {id}")));
            }
        }
        self.traffic.send_modify(|traffic| traffic.jwt_fetches += 1);
        let fault = self.jwt_fault().await?;
        match &fault {
            Some(JwtFault::Deny) => return Err(Status::permission_denied(NO_IDENTITY)),
            Some(JwtFault::Unavailable) => return Err(Status::unavailable("told to be unavailable")),
            Some(JwtFault::Slow(delay)) => tokio::time::sleep(*delay).await,
            _ => {}
        }
        let audience: BTreeSet<String> = request.audience.iter().cloned().collect();
        let now = SystemTime::now();
        let answer = self.shared.state().jwt_response(&request.spiffe_id, &audience, fault.as_ref(), now);
        match answer {
            Ok(answer) => answer.ok_or_else(|| Status::permission_denied(NO_IDENTITY)),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    pub(super) fn validated(&self, request: &ValidateJwtsvidRequest) -> Result<ValidateJwtsvidResponse, Status> {
        let refused = |why: &str| Status::new(Code::InvalidArgument, why);
        if request.audience.is_empty() || request.svid.is_empty() {
            return Err(refused("audience and svid must be specified"));
        }
        let claims = self.shared.state().verified_claims(&request.svid);
        let claims = claims.ok_or_else(|| refused("the signature is not one of ours"))?;
        let listed = |audience: &Value| match audience {
            Value::Array(all) => all.iter().any(|one| *one == *request.audience),
            one => *one == *request.audience,
        };
        if !claims.get("aud").is_some_and(listed) {
            return Err(refused("the token is for another audience"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if claims.get("exp").and_then(Value::as_u64).is_none_or(|exp| exp <= now) {
            return Err(refused("the token has expired"));
        }
        let spiffe_id = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(ValidateJwtsvidResponse { spiffe_id, claims: object(&claims) })
    }

    /// The fault to show, once there is anything to show at all.
    async fn jwt_fault(&self) -> Result<Option<JwtFault>, Status> {
        let mut served = self.served.clone();
        let stopped = |_| Status::unavailable("the development issuer has stopped");
        let hangs = |fault: &Option<JwtFault>| *fault == Some(JwtFault::Hang);
        let now = served.wait_for(|served| !matches!(served.mode, Mode::Hanging) && !hangs(&served.jwt_fault)).await;
        let now = now.map_err(stopped)?;
        match &now.mode {
            Mode::Failing(status) => Err(status.clone()),
            Mode::Serving | Mode::Hanging => Ok(now.jwt_fault.clone()),
        }
    }
}

fn object(value: &Value) -> Option<Struct> {
    let fields = value.as_object()?;
    Some(Struct { fields: fields.iter().map(|(name, value)| (name.clone(), wire(value))).collect() })
}

fn wire(value: &Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(wire).collect() }),
        Value::Object(_) => Kind::StructValue(object(value).unwrap_or_default()),
    };
    Wire { kind: Some(kind) }
}
