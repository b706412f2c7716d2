//! A client below gRPC: many streams for little memory, and bytes that no gRPC library would send.

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use crate::support::world::bounded;

/// One connection.
pub struct Raw {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// One call. Dropping it resets the stream.
pub struct Call {
    response: Option<ResponseFuture>,
    pub requests: SendStream<Bytes>,
    responses: Option<RecvStream>,
    buffer: Vec<u8>,
}

impl Raw {
    /// A connection over `io` that never runs out of windows.
    pub async fn connect(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 30).initial_max_send_streams(100_000);
        let (sender, connection) = bounded(builder.handshake(io)).await.unwrap();
        Self { sender, connection: tokio::spawn(connection) }
    }

    /// Opens a call of `path`.
    pub async fn open(&mut self, path: &str) -> Call {
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut sender = bounded(self.sender.clone().ready()).await.unwrap();
        let (response, requests) = sender.send_request(request, false).unwrap();
        Call { response: Some(response), requests, responses: None, buffer: Vec::new() }
    }

    /// How the connection ends.
    pub async fn end(self) -> Result<(), h2::Error> {
        drop(self.sender);
        bounded(self.connection).await.unwrap()
    }

    /// Whether it still stands.
    pub fn is_open(&self) -> bool {
        !self.connection.is_finished()
    }
}

impl Call {
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        self.requests.send_data(bytes.into(), false).unwrap();
    }

    /// Sends as much as there is, as the window opens.
    pub async fn send_all(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            self.requests.reserve_capacity(bytes.len());
            let room = bounded(std::future::poll_fn(|cx| self.requests.poll_capacity(cx))).await.unwrap().unwrap();
            self.requests.send_data(bytes.split_to(room.min(bytes.len())), false).unwrap();
        }
    }

    /// The next message; `None` at the end of the stream.
    pub async fn message(&mut self) -> Option<Vec<u8>> {
        bounded(self.receive()).await
    }

    /// The gRPC status that ends the call; messages that come before it are dropped.
    pub async fn status(&mut self) -> tonic::Code {
        let response = match self.response.take() {
            Some(response) => {
                let response = bounded(response).await.unwrap();
                // An error without messages is in the headers.
                if let Some(status) = response.headers().get("grpc-status") {
                    return tonic::Code::from_bytes(status.as_bytes());
                }
                self.responses = Some(response.into_body());
                self.responses.as_mut().unwrap()
            }
            None => self.responses.as_mut().unwrap(),
        };
        while let Some(data) = bounded(response.data()).await {
            let size = data.unwrap().len();
            response.flow_control().release_capacity(size).unwrap();
        }
        let trailers = bounded(response.trailers()).await.unwrap().expect("no trailers");
        tonic::Code::from_bytes(trailers["grpc-status"].as_bytes())
    }

    async fn receive(&mut self) -> Option<Vec<u8>> {
        if let Some(response) = self.response.take() {
            self.responses = Some(response.await.unwrap().into_body());
        }
        let responses = self.responses.as_mut().unwrap();
        loop {
            if let Some((prefix, rest)) = self.buffer.split_at_checked(5) {
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                if rest.len() >= length {
                    let message = rest[..length].to_vec();
                    self.buffer.drain(..5 + length);
                    return Some(message);
                }
            }
            let data = responses.data().await?.unwrap();
            responses.flow_control().release_capacity(data.len()).unwrap();
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// A message with its gRPC prefix.
pub fn framed(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut out = vec![0];
    out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    out.extend(body);
    out.into()
}
