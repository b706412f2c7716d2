//! JWT-SVIDs and JWT bundles of the Workload API.

use std::{collections::BTreeSet, time::SystemTime};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tonic::Streaming;

use super::{WorkloadApi, channel, session::Client, session::request};
use crate::{
    identity::{JwtRequest, JwtSubject, JwtSvid, TrustDomain, Workload},
    secret::DefaultIdentity,
    source::{
        JwtSource, SourceError,
        decode::jwt::{self, JwtBundles, JwtKeys},
    },
    workload_api_proto::{JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest},
};

impl JwtSource for WorkloadApi {
    fn fetch(
        &self,
        workload: &Workload,
        request: &JwtRequest,
        keys: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        let (api, wanted, keys) = (self.clone(), request.clone(), keys.clone());
        match workload {
            Workload::Own => async move { api.fetch_jwt(&wanted, &keys).await }.boxed(),
        }
    }

    fn watch_keys(&self, workload: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        let api = self.clone();
        match workload {
            Workload::Own => {
                let first: BTreeSet<_> = api.config.trust_domain.iter().cloned().collect();
                stream::try_unfold((None, first), move |(open, first)| {
                    let api = api.clone();
                    async move {
                        let (keys, open) = api.next_keys(open, &first).await?;
                        let first = api.config.trust_domain.iter().chain(keys.bundles.keys()).cloned().collect();
                        Ok(Some((keys, (Some(open), first))))
                    }
                })
                .boxed()
            }
        }
    }
}

impl WorkloadApi {
    async fn fetch_jwt(&self, wanted: &JwtRequest, keys: &JwtBundles) -> Result<JwtSvid, SourceError> {
        let spiffe_id = match (&wanted.subject, &self.default) {
            (JwtSubject::Id(id), _) | (JwtSubject::Default, DefaultIdentity::Id(id)) => id.to_string(),
            // The answer then has a token of each identity.
            (JwtSubject::Default | JwtSubject::Hint(_), _) => String::new(),
        };
        let message = JwtsvidRequest { audience: wanted.audience.iter().cloned().collect(), spiffe_id };
        let mut client = self.jwt_client().await?;
        let answer = self.within_first_message(client.fetch_jwtsvid(request(message))).await;
        let answer = answer.inspect_err(|_| self.suspicion.notify_one())?;
        let mut answer = answer.map_err(|status| self.status(&status))?.into_inner();
        Ok(jwt::svid(&mut answer, wanted, &self.default, keys, SystemTime::now())?)
    }

    /// The next state of the keys, from a stream that is opened for the first one. If there are too many those of `first`
    /// are taken.
    async fn next_keys(
        &self,
        open: Option<Streaming<JwtBundlesResponse>>,
        first: &BTreeSet<TrustDomain>,
    ) -> Result<(JwtKeys, Streaming<JwtBundlesResponse>), SourceError> {
        let (stream, message) = match open {
            Some(mut stream) => {
                let message = stream.message().await;
                (stream, message)
            }
            None => {
                let mut client = self.jwt_client().await?;
                let call = async {
                    let mut stream = client.fetch_jwt_bundles(request(JwtBundlesRequest {})).await?.into_inner();
                    let message = stream.message().await;
                    Ok((stream, message))
                };
                let answer = self.within_first_message(call).await.inspect_err(|_| self.suspicion.notify_one())?;
                answer.map_err(|status: tonic::Status| self.status(&status))?
            }
        };
        let message = message.map_err(|status| self.status(&status))?.ok_or(SourceError::Closed)?;
        let keys = jwt::bundles(&message, &self.limits, first)?;
        Ok((keys, stream))
    }

    /// A connection for one call: a token is fetched every few minutes, and one that was kept may have died unnoticed.
    async fn jwt_client(&self) -> Result<Client, SourceError> {
        let channel = channel::connect(&self.config.endpoint, self.deadlines.connect).await?;
        Ok(Client::new(channel).max_decoding_message_size(self.limits.message_bytes))
    }
}
