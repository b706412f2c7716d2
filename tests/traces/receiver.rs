//! A receiver of traces: OTLP over gRPC, as a collector speaks it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, any_value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use crate::support::world::bounded;

/// Everything that was received.
#[derive(Clone, Default)]
pub struct Received {
    pub requests: Vec<ExportTraceServiceRequest>,
    /// The header `authorization` of each request.
    pub authorized: Vec<Option<String>>,
}

#[derive(Clone)]
pub struct Receiver(Arc<watch::Sender<Received>>);

impl Receiver {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// One on loopback TCP.
    pub async fn tcp() -> (Self, SocketAddr) {
        let receiver = Self::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(TraceServiceServer::new(receiver.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (receiver, address)
    }

    /// One on a Unix socket.
    pub fn unix(path: &Path) -> Self {
        let receiver = Self::new();
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let server = Server::builder().add_service(TraceServiceServer::new(receiver.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        receiver
    }

    /// Everything so far.
    pub fn received(&self) -> Received {
        self.0.borrow().clone()
    }

    /// All of it as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.borrow().requests.iter().flat_map(|request| request.encode_to_vec()).collect()
    }

    /// Every finished trace, in the order in which their roots came.
    pub fn traces(&self) -> Vec<Trace> {
        Trace::of(&self.0.borrow())
    }

    /// The first finished trace of which this is so.
    pub async fn trace(&self, is: impl Fn(&Trace) -> bool) -> Trace {
        let mut received = self.0.subscribe();
        let found = |received: &Received| Trace::of(received).into_iter().find(&is);
        let received = bounded(received.wait_for(|received| found(received).is_some())).await.unwrap();
        found(&received).unwrap()
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let authorized = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.0.send_modify(|received| {
            received.authorized.push(authorized);
            received.requests.push(request.into_inner());
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A root and its children, by start.
#[derive(Debug)]
pub struct Trace {
    pub root: Seen,
    pub children: Vec<Seen>,
}

/// One span.
#[derive(Debug)]
pub struct Seen {
    pub span: Span,
    pub attributes: BTreeMap<String, String>,
}

impl Trace {
    fn of(received: &Received) -> Vec<Self> {
        let resources = received.requests.iter().flat_map(|request| &request.resource_spans);
        let spans: Vec<_> = resources.flat_map(|it| &it.scope_spans).flat_map(|it| &it.spans).collect();
        let roots = spans.iter().filter(|span| span.parent_span_id.is_empty());
        roots
            .map(|root| {
                let children = spans.iter().filter(|span| span.trace_id == root.trace_id && span != &root);
                let mut children: Vec<_> = children.map(|span| Seen::new(span)).collect();
                children.sort_by_key(|child| child.span.start_time_unix_nano);
                Self { root: Seen::new(root), children }
            })
            .collect()
    }

    pub fn named(&self, name: &str) -> Vec<&Seen> {
        self.children.iter().filter(|child| child.span.name == name).collect()
    }

    pub fn names(&self) -> Vec<&str> {
        self.children.iter().map(|child| child.span.name.as_str()).collect()
    }

    /// As a person would draw it.
    pub fn drawn(&self) -> String {
        let mut text = self.root.drawn(&self.root, "");
        for child in &self.children {
            text += &child.drawn(&self.root, "  ");
        }
        text
    }
}

impl Seen {
    fn new(span: &Span) -> Self {
        let attributes = span.attributes.iter().map(|pair| (pair.key.clone(), shown(pair.value.as_ref())));
        Self { span: span.clone(), attributes: attributes.collect() }
    }

    pub fn is(&self, name: &str, value: &str) -> bool {
        self.attributes.get(name).is_some_and(|found| found == value)
    }

    /// The text of an error.
    pub fn error(&self) -> Option<&str> {
        let status = self.span.status.as_ref()?;
        (status.code() == StatusCode::Error).then_some(status.message.as_str())
    }

    fn drawn(&self, root: &Self, indent: &str) -> String {
        let since = |at: u64| (at - root.span.start_time_unix_nano) as f64 / 1e6;
        let (start, end) = (since(self.span.start_time_unix_nano), since(self.span.end_time_unix_nano));
        let attributes: Vec<_> = self.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let error = self.error().map(|error| format!(" ERROR {error}")).unwrap_or_default();
        format!("{start:9.2} {end:9.2} ms  {indent}{} {}{error}\n", self.span.name, attributes.join(" "))
    }
}

fn shown(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        Some(any_value::Value::ArrayValue(list)) => {
            list.values.iter().map(|value| shown(Some(value))).collect::<Vec<_>>().join(",")
        }
        other => panic!("{other:?}"),
    }
}
