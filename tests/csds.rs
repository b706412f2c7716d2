//! The Client Status Discovery Service on the admin listener, as its clients see it.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ConfigStatus,
            client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
        },
        r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use fixture::Site;
use prost::Message as _;
use support::{
    traces,
    world::{bounded, unix_channel},
    xds::{Sotw, envoy},
};
use tonic::Code;

async fn status(site: &Site, matchers: Vec<NodeMatcher>) -> Result<Vec<ClientConfig>, tonic::Status> {
    let mut client = ClientStatusDiscoveryServiceClient::new(unix_channel(site.socket()).await);
    let request = ClientStatusRequest { node_matchers: matchers, ..ClientStatusRequest::default() };
    bounded(client.fetch_client_status(request)).await.map(|answer| answer.into_inner().config)
}

/// The status of each name, once it is this.
async fn until(site: &Site, wanted: &[(&str, ConfigStatus)]) -> ClientConfig {
    let asked = async {
        loop {
            let clients = status(site, Vec::new()).await.unwrap();
            if let [client] = clients.as_slice() {
                let names: Vec<_> = client
                    .generic_xds_configs
                    .iter()
                    .map(|config| (config.name.as_str(), config.config_status()))
                    .collect();
                if names == wanted {
                    return client.clone();
                }
            }
            tokio::task::yield_now().await;
        }
    };
    bounded(asked).await
}

fn node_id(pattern: MatchPattern) -> NodeMatcher {
    let node_id = StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
    NodeMatcher { node_id: Some(node_id), ..NodeMatcher::default() }
}

#[tokio::test]
async fn a_rejection_stays_with_its_words_until_other_content_is_taken() {
    let site = Site::ready(&[]).await;
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default", "later"]).await;
    envoy.expect(["default"]).await;
    until(&site, &[("default", ConfigStatus::Stale), ("later", ConfigStatus::NotSent)]).await;
    envoy.nack("no such <curve>").await;
    let client = until(&site, &[("default", ConfigStatus::Error), ("later", ConfigStatus::NotSent)]).await;
    let error = client.generic_xds_configs[0].error_state.as_ref().unwrap();
    assert_eq!(error.details, "no such <curve>");
    assert!(client.generic_xds_configs[0].last_updated.is_some());
    assert_eq!(client.node.as_ref().unwrap().id, "envoy-1");
    assert!(client.client_scope.contains("uid:"), "{}", client.client_scope);
    site.issuer.rotate().unwrap();
    envoy.expect(["default"]).await;
    until(&site, &[("default", ConfigStatus::Error), ("later", ConfigStatus::NotSent)]).await;
    envoy.ack().await;
    let client = until(&site, &[("default", ConfigStatus::Synced), ("later", ConfigStatus::NotSent)]).await;
    let text = String::from_utf8_lossy(&client.encode_to_vec()).into_owned();
    assert!(!text.contains("PRIVATE KEY") && !text.contains("CERTIFICATE"));
    traces::assert_none("CSDS", &text, &site.secrets());
    site.stop().await;
}

/// Accepted and refused are two versions, and a client that has taken nothing uses nothing.
#[tokio::test]
async fn what_was_accepted_and_what_was_refused_are_told_apart() {
    let site = Site::ready(&[]).await;
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    let client = until(&site, &[("default", ConfigStatus::Stale)]).await;
    assert_eq!(client.generic_xds_configs[0].version_info, "", "nothing was accepted yet");
    envoy.ack().await;
    let client = until(&site, &[("default", ConfigStatus::Synced)]).await;
    let accepted = client.generic_xds_configs[0].version_info.clone();
    assert!(!accepted.is_empty() && client.generic_xds_configs[0].error_state.is_none());
    site.issuer.rotate().unwrap();
    envoy.expect(["default"]).await;
    let client = until(&site, &[("default", ConfigStatus::Stale)]).await;
    assert_eq!(client.generic_xds_configs[0].version_info, accepted, "what was sent is not in use");
    envoy.nack("no such curve").await;
    let client = until(&site, &[("default", ConfigStatus::Error)]).await;
    let config = &client.generic_xds_configs[0];
    let error = config.error_state.as_ref().unwrap();
    assert_eq!((config.version_info.as_str(), error.details.as_str()), (accepted.as_str(), "no such curve"));
    assert!(!error.version_info.is_empty() && error.version_info != accepted, "{}", error.version_info);
    assert!(error.last_update_attempt.is_some());
    let refused = error.version_info.clone();
    site.issuer.rotate().unwrap();
    envoy.expect(["default"]).await;
    envoy.ack().await;
    let client = until(&site, &[("default", ConfigStatus::Synced)]).await;
    let config = &client.generic_xds_configs[0];
    assert!(config.error_state.is_none() && config.version_info != accepted && config.version_info != refused);
    site.stop().await;
}

#[tokio::test]
async fn a_node_is_shown_as_it_says_it_is_to_a_bound() {
    let site = Site::ready(&[]).await;
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = [("APP".to_owned(), text("web")), ("LARGE".to_owned(), text(&"x".repeat(50_000)))].into();
    let node = Node { metadata: Some(Struct { fields }), ..envoy(40) };
    let mut streams = Vec::new();
    // One client, two streams.
    let channel = site.xds().await;
    for name in ["ROOTCA", "default"] {
        let mut stream = Sotw::secrets(&channel).await.node(Some(node.clone()));
        stream.subscribe([name]).await;
        stream.expect([name]).await;
        stream.ack().await;
        streams.push(stream);
    }
    let client = until(&site, &[("ROOTCA", ConfigStatus::Synced), ("default", ConfigStatus::Synced)]).await;
    let shown = client.node.unwrap();
    assert_eq!(
        (shown.id.as_str(), shown.cluster.as_str(), shown.user_agent_name.as_str()),
        ("envoy-1", "test", "envoy")
    );
    assert_eq!(shown.user_agent_version_type, node.user_agent_version_type);
    let metadata = shown.metadata.unwrap();
    assert_eq!(metadata.fields.keys().collect::<Vec<_>>(), ["APP"], "what is too large is left out");
    assert_eq!(metadata.fields["APP"], text("web"));
    site.stop().await;
}

#[tokio::test]
async fn clients_are_chosen_by_node_and_what_cannot_be_matched_is_said() {
    let site = Site::ready(&[]).await;
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    let matching = |pattern| status(&site, vec![node_id(pattern)]);
    assert_eq!(matching(MatchPattern::Prefix("envoy".into())).await.unwrap().len(), 1);
    assert_eq!(matching(MatchPattern::Exact("envoy".into())).await.unwrap().len(), 0);
    let refused = matching(MatchPattern::SafeRegex(Default::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut client = ClientStatusDiscoveryServiceClient::new(unix_channel(site.socket()).await);
    let requests = tokio_stream::iter([ClientStatusRequest::default(), ClientStatusRequest::default()]);
    let mut answers = bounded(client.stream_client_status(requests)).await.unwrap().into_inner();
    for _ in 0..2 {
        assert_eq!(bounded(answers.message()).await.unwrap().unwrap().config.len(), 1);
    }
    assert!(bounded(answers.message()).await.unwrap().is_none());
    site.stop().await;
}
