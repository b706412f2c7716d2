//! The rows, and the worlds that they need.

use envoy_types::pb::{envoy::config::core::v3::Node, google::protobuf::value::Kind};
use spiffe_sds::secret::Flavour;

use super::{FEDERATED, ID, OWN, UNKNOWN};
use crate::support::{
    secrets::{Content, certificate, plain, spiffe},
    world::{DOMAIN, Setup, World, td},
    xds::{envoy, with_switch},
};

/// One row of a table.
pub(crate) struct Row {
    pub(crate) number: u32,
    /// SPIRE's `sds { disable_spiffe_cert_validation }`.
    pub(crate) disabled: bool,
    /// SPIRE's `sds { default_bundle_name }`.
    pub(crate) bundle_name: &'static str,
    pub(crate) node: Node,
    pub(crate) names: &'static [&'static str],
    /// Name and content, trust before certificates; nothing where the name cannot be had.
    pub(crate) expected: Vec<(&'static str, Expected)>,
}

#[derive(Clone, Copy)]
pub(crate) enum Expected {
    Certificate,
    Context(Flavour, &'static [&'static str]),
}

const CERTIFICATE: Expected = Expected::Certificate;
const SPIFFE_OWN: Expected = Expected::Context(Flavour::Spiffe, &[DOMAIN]);
const PLAIN_OWN: Expected = Expected::Context(Flavour::Plain, &[DOMAIN]);
const SPIFFE_FEDERATED: Expected = Expected::Context(Flavour::Spiffe, &["otherdomain.test"]);
const PLAIN_FEDERATED: Expected = Expected::Context(Flavour::Plain, &["otherdomain.test"]);

fn row(number: u32, node: Node, names: &'static [&'static str], expected: &[(&'static str, Expected)]) -> Row {
    Row { number, disabled: false, bundle_name: "ROOTCA", node, names, expected: expected.to_vec() }
}

fn disabled(row: Row) -> Row {
    Row { disabled: true, ..row }
}

fn bundle_name(bundle_name: &'static str, row: Row) -> Row {
    Row { bundle_name, ..row }
}

fn nobody() -> Node {
    Node::default()
}

fn text(value: &str) -> Kind {
    Kind::StringValue(value.into())
}

/// Rows 1 to 26 of `TestStreamSecrets`.
pub(crate) fn rows() -> Vec<Row> {
    let switched = |value| with_switch(envoy(18), value);
    let all = &[("ALL", Expected::Context(Flavour::Spiffe, &[DOMAIN, "otherdomain.test"]))];
    vec![
        row(1, envoy(17), &[], &[(OWN, PLAIN_OWN), (FEDERATED, PLAIN_FEDERATED), (ID, CERTIFICATE)]),
        row(2, envoy(18), &[], &[(OWN, SPIFFE_OWN), (FEDERATED, SPIFFE_FEDERATED), (ID, CERTIFICATE)]),
        row(3, envoy(17), &[OWN], &[(OWN, PLAIN_OWN)]),
        row(4, envoy(18), &[OWN], &[(OWN, SPIFFE_OWN)]),
        row(5, nobody(), &[OWN], &[(OWN, SPIFFE_OWN)]),
        row(6, envoy(18), &["ROOTCA"], &[("ROOTCA", SPIFFE_OWN)]),
        row(7, envoy(17), &[FEDERATED], &[(FEDERATED, PLAIN_FEDERATED)]),
        row(8, envoy(18), &[FEDERATED], &[(FEDERATED, SPIFFE_FEDERATED)]),
        row(9, envoy(17), &[ID], &[(ID, CERTIFICATE)]),
        row(10, envoy(18), &[ID], &[(ID, CERTIFICATE)]),
        // SPIRE ends the stream with `Internal`; a name that cannot be had ends nothing here.
        row(11, envoy(17), &["ALL"], &[]),
        row(12, envoy(18), &["ALL"], all),
        row(13, envoy(18), &["default"], &[("default", CERTIFICATE)]),
        // SPIRE ends the stream with `InvalidArgument`.
        row(14, envoy(18), &[UNKNOWN], &[]),
        disabled(row(15, envoy(18), &[OWN], &[(OWN, PLAIN_OWN)])),
        disabled(bundle_name("ALL", row(16, envoy(18), &["default"], &[("default", CERTIFICATE)]))),
        disabled(bundle_name("ALL", row(17, envoy(18), &["ALL"], &[("ALL", PLAIN_OWN)]))),
        row(18, switched(Kind::BoolValue(true)), &[OWN], &[(OWN, PLAIN_OWN)]),
        row(19, switched(text("true")), &[OWN], &[(OWN, PLAIN_OWN)]),
        row(20, switched(Kind::BoolValue(false)), &[OWN], &[(OWN, SPIFFE_OWN)]),
        row(21, switched(text("test")), &[OWN], &[(OWN, SPIFFE_OWN)]),
        disabled(row(22, switched(text("true")), &[OWN], &[(OWN, PLAIN_OWN)])),
        disabled(row(23, switched(text("false")), &[OWN], &[(OWN, SPIFFE_OWN)])),
        disabled(row(24, switched(Kind::BoolValue(false)), &[OWN], &[(OWN, SPIFFE_OWN)])),
        disabled(row(25, switched(text("test")), &[OWN], &[(OWN, PLAIN_OWN)])),
        disabled(row(26, switched(Kind::NumberValue(5.0)), &[OWN], &[(OWN, PLAIN_OWN)])),
    ]
}

/// SPIRE's fixture: one identity, one federated trust domain, a wildcard that means something.
pub(crate) fn fixture(setup: &mut Setup) {
    setup.issuer.federated = vec![td("otherdomain.test")];
    setup.secrets.wildcard = true;
}

/// The worlds that the rows need, by what they configure.
pub(crate) struct Worlds(Vec<((bool, &'static str), World)>);

impl Worlds {
    pub(crate) async fn start() -> Self {
        let mut worlds = Vec::new();
        for (disabled, bundle) in [(false, "ROOTCA"), (true, "ROOTCA"), (true, "ALL")] {
            let world = World::with(|setup| {
                fixture(setup);
                setup.secrets.disable_spiffe_cert_validation = disabled;
                setup.secrets.naming.default_bundle = bundle.into();
            });
            worlds.push(((disabled, bundle), world.await));
        }
        Self(worlds)
    }

    pub(crate) fn of(&self, row: &Row) -> &World {
        let wanted = (row.disabled, row.bundle_name);
        &self.0.iter().find(|(configured, _)| *configured == wanted).expect("no such world").1
    }
}

impl Expected {
    fn content(self, world: &World) -> Content {
        match self {
            Self::Certificate => certificate(&world.svid("workload")),
            Self::Context(Flavour::Spiffe, domains) => spiffe(world, domains),
            Self::Context(Flavour::Plain, domains) => plain(world, domains[0]),
        }
    }
}

impl Row {
    pub(crate) fn contents(&self, world: &World) -> Vec<(String, Content)> {
        self.expected.iter().map(|(name, expected)| ((*name).to_owned(), expected.content(world))).collect()
    }
}
