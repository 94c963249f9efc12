//! TLS at both ends, by rustls: the server's certificate from files, and whom a client trusts.

use std::{
    io,
    path::Path,
    sync::{Arc, LazyLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    },
    server::TlsStream,
};

use crate::Error;

/// A server's certificate and its key.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Tls {
    /// Reads PEM files: a chain of certificates, the server's own first, and its private key.
    ///
    /// # Errors
    /// [`Error::Tls`] names the file that cannot be used, and why.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, Error> {
        let certificates = certificates(chain)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
            pem::Error::NoItemsFound => unusable(key, "expected a private key in PEM, found none"),
            error => unusable(key, error),
        })?;
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.map_err(|error| unusable(chain, error))?.with_no_client_auth();
        let config = config.with_single_cert(certificates, private).map_err(|error| {
            let reason = format!("does not go with the certificate in {}: {error}", chain.display());
            unusable(key, reason)
        });
        let mut config = config?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

/// All certificates in a PEM file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unusable(path, error))?;
    if certificates.is_empty() {
        return Err(unusable(path, "expected certificates in PEM, found none"));
    }
    Ok(certificates)
}

/// How a client connects that trusts these authorities and the machine's own.
pub(crate) fn client_config(more: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, Error> {
    // A hundred and more certificates, of as many files: read once for all the viewers of a load test. A machine that has
    // none, such as a small container, can still be given one.
    static OWN: LazyLock<RootCertStore> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    let mut roots = OWN.clone();
    roots.add_parsable_certificates(more.iter().cloned());
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Error::Network(io::Error::other(error)))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Named here rather than taken from what else the process holds: there may be several.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unusable(path: &Path, reason: impl ToString) -> Error {
    let reason = match reason.to_string() {
        // what PEM's reader says of a file that it cannot open
        text if text.starts_with("I/O error: ") => text["I/O error: ".len()..].to_owned(),
        text => text,
    };
    Error::Tls { path: path.to_owned(), reason }
}
