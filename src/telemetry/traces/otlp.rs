//! Spans over OTLP, by the SDK of OpenTelemetry: its tracer, its batches, its exporter.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use opentelemetry::{
    KeyValue,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
        SpanExporter as Exporter,
    },
};
use tokio::net::UnixStream;
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint as Transport, Uri},
};
use tower::service_fn;

use super::{Attribute, Backend, Config, Context, Endpoint, Open, Span, TraceError, Value};

/// Spans that wait to be sent; further ones are lost. One rotation of ten thousand streams fits.
const QUEUE: usize = 16_384;
/// Spans of one request, at most.
const BATCH: usize = 512;
/// How long a request that is not full waits.
const DELAY: Duration = Duration::from_secs(1);

/// Sends spans to a receiver, from a thread of its own.
#[derive(Debug)]
pub struct Otlp {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Otlp {
    /// A sender that has not connected yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TraceError`] for headers that cannot be read.
    pub fn new(config: &Config) -> Result<Self, TraceError> {
        let headers = config.headers_file.as_deref().map(headers).transpose()?.unwrap_or_default();
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel(&config.endpoint, config.timeout))
            .with_metadata(headers)
            .with_timeout(config.timeout)
            .build()
            .map_err(|error| TraceError::Exporter(error.to_string()))?;
        let exporter = Reported { exporter, endpoint: config.endpoint.clone(), down: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let version = env!("CARGO_PKG_VERSION");
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", version));
        let sampler = Sampler::TraceIdRatioBased(f64::from(config.sample_percent) / 100.0);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("spiffe-sds");
        Ok(Self { provider, tracer })
    }
}

/// Connects when there is something to send, and again after a failure.
fn channel(endpoint: &Endpoint, timeout: Duration) -> Channel {
    match endpoint {
        Endpoint::Http(uri) => {
            let transport = Transport::from(uri.clone());
            transport.timeout(timeout).connect_timeout(timeout).connect_lazy()
        }
        Endpoint::Unix(path) => {
            let path = path.clone();
            let connect = move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            let transport = Transport::from_static("http://localhost");
            transport.timeout(timeout).connect_timeout(timeout).connect_with_connector_lazy(service_fn(connect))
        }
    }
}

fn headers(path: &Path) -> Result<MetadataMap, TraceError> {
    let unreadable = |source: io::Error| TraceError::Headers { path: path.to_owned(), source };
    let text = zeroize::Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
    let mut headers = MetadataMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name = name.trim().to_ascii_lowercase().parse::<AsciiMetadataKey>().ok()?;
            Some((name, value.trim().parse::<AsciiMetadataValue>().ok()?))
        });
        let (name, mut value) = parsed.ok_or(TraceError::Header { path: path.to_owned(), line: index + 1 })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

impl Backend for Otlp {
    fn begin(&self, name: &'static str, start: SystemTime, links: Vec<Context>) -> Option<Box<dyn Open>> {
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(start);
        let builder = builder.with_links(links.into_iter().map(link).collect());
        let span = self.tracer.build_with_context(builder, &opentelemetry::Context::new());
        if !span.is_recording() {
            return None;
        }
        let parent = opentelemetry::Context::new().with_remote_span_context(span.span_context().clone());
        Some(Box::new(Root { tracer: self.tracer.clone(), parent, span: Mutex::new(span) }))
    }

    fn shutdown(&self, patience: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(patience) {
            tracing::debug!(%error, "not all traces were sent before the end");
        }
    }
}

struct Root {
    tracer: SdkTracer,
    parent: opentelemetry::Context,
    span: Mutex<opentelemetry_sdk::trace::Span>,
}

impl Open for Root {
    fn context(&self) -> Context {
        let span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        let context = span.span_context();
        Context {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
        }
    }

    fn child(&self, span: Span) {
        let builder = SpanBuilder::from_name(span.name).with_kind(SpanKind::Internal).with_start_time(span.start);
        let builder = builder.with_attributes(span.attributes.into_iter().map(attribute));
        let builder = builder.with_links(span.links.into_iter().map(link).collect());
        let mut child = self.tracer.build_with_context(builder, &self.parent);
        if let Some(error) = span.error {
            child.set_status(Status::error(error));
        }
        child.end_with_timestamp(span.end);
    }

    fn end(self: Box<Self>, end: SystemTime, attributes: Vec<Attribute>, error: Option<String>) {
        let mut span = self.span.into_inner().unwrap_or_else(PoisonError::into_inner);
        span.set_attributes(attributes.into_iter().map(attribute));
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(end);
    }
}

fn link(context: Context) -> Link {
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
    Link::new(context, Vec::new(), 0)
}

fn attribute((name, value): Attribute) -> KeyValue {
    match value {
        Value::Word(word) => KeyValue::new(name, word),
        Value::Text(text) => KeyValue::new(name, text),
        Value::Shared(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
        Value::Flag(flag) => KeyValue::new(name, flag),
        Value::Texts(texts) => {
            let texts = texts.into_iter().map(opentelemetry::StringValue::from).collect();
            KeyValue::new(name, opentelemetry::Value::Array(opentelemetry::Array::String(texts)))
        }
    }
}

/// An exporter whose failures are said once an outage.
struct Reported {
    exporter: SpanExporter,
    endpoint: Endpoint,
    down: AtomicBool,
}

impl Exporter for Reported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                if self.down.swap(false, Ordering::Relaxed) {
                    tracing::info!(endpoint = %self.endpoint, "traces are received again");
                }
            }
            Err(error) => {
                if self.down.swap(true, Ordering::Relaxed) {
                    tracing::debug!(endpoint = %self.endpoint, %error, spans, "traces are lost");
                } else {
                    tracing::warn!(endpoint = %self.endpoint, %error, spans, "traces are not received and are lost until they are");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl fmt::Debug for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reported").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
