//! A client with any certificate, also one that no honest program would present.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use spiffe_sds::dev::Issued;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, SignatureScheme,
        client::{
            ResolvesClientCert, WantsClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
        sign::CertifiedKey,
    },
};

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Nobody is slower than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes one request with this certificate: the serial of the server's if it is answered with 200, else why not.
pub async fn request(address: SocketAddr, present: &Issued) -> Result<String, String> {
    request_to(address, "server", present).await
}

/// The same, calling the server by this name.
pub async fn request_to(address: SocketAddr, name: &str, present: &Issued) -> Result<String, String> {
    match timeout(PATIENCE, exchange(address, name, present)).await {
        Ok(Ok((serial, answer))) if answer.starts_with("HTTP/1.1 200") => Ok(serial),
        Ok(Ok((_, answer))) => Err(format!("answered {:?}", answer.lines().next())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(elapsed) => Err(elapsed.to_string()),
    }
}

/// The authorities that the server names when it asks for a certificate, as DER; `None` if it does not ask.
pub async fn asked_for(address: SocketAddr) -> Option<Vec<Vec<u8>>> {
    let asked = Arc::new(Asked::default());
    let config = builder().with_client_cert_resolver(asked.clone());
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("server").unwrap();
    // In TLS 1.3 our side is done before the server refuses.
    let handshake = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    handshake.expect("a handshake in time").unwrap();
    asked.0.lock().unwrap().take()
}

async fn exchange(address: SocketAddr, name: &str, present: &Issued) -> std::io::Result<(String, String)> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config(present))).connect(name, stream).await?;
    let serial = serial(&stream.get_ref().1.peer_certificates().unwrap()[0]);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").await?;
    // With TLS 1.3 a client hears only now that its certificate is refused.
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((serial, String::from_utf8_lossy(&answer).into_owned()))
}

/// A certificate's serial number as Envoy prints it.
fn serial(der: &[u8]) -> String {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn config(present: &Issued) -> ClientConfig {
    let chain = present.svid.chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(present.svid.key.pkcs8_der().to_vec()));
    builder().with_client_auth_cert(chain, key).unwrap()
}

fn builder() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&tokio_rustls::rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
}

/// Has no certificate, and remembers what it was asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<Option<Vec<Vec<u8>>>>);

impl ResolvesClientCert for Asked {
    fn resolve(&self, authorities: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap() = Some(authorities.iter().map(|name| name.to_vec()).collect());
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Talks to whoever has the key of the certificate it shows: what is tested is whether the server talks to us.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
