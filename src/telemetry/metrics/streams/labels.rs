//! The labels of stream metrics. All values are ours and few.

use prometheus_client::encoding::EncodeLabelSet;

/// A kind of stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    pub(super) service: &'static str,
    pub(super) variant: &'static str,
    pub(super) peer: &'static str,
}

/// Why something happened on a kind of stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reason {
    pub(super) service: &'static str,
    pub(super) variant: &'static str,
    pub(super) peer: &'static str,
    pub(super) reason: &'static str,
}

/// How a kind of stream ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Closing {
    pub(super) service: &'static str,
    pub(super) variant: &'static str,
    pub(super) peer: &'static str,
    pub(super) code: &'static str,
}

/// How an update came to a kind of stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Push {
    pub(super) service: &'static str,
    pub(super) variant: &'static str,
    pub(super) rollout: &'static str,
}

/// What is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Protocol {
    pub(super) service: &'static str,
    pub(super) variant: &'static str,
}

/// How clients reach us.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Peer {
    pub(super) peer: &'static str,
}

/// How a question without a stream was asked, and its gRPC status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Fetch {
    pub(super) api: &'static str,
    pub(super) code: &'static str,
}

/// Whose memory it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Budget {
    pub(super) budget: &'static str,
}
