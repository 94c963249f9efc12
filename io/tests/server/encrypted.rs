//! https:// and wss:// with a certificate made for the test.

use std::path::{Path, PathBuf};

use acdit_io::{Access, Caller, Client, Error, Kind, ServerConfig, Tls, Token};
use rcgen::{CertificateParams, KeyPair};

use crate::harness::{Served, next_packet, packet};

const TOKEN: &str = "0123456789abcdef-token";

struct Files(tempfile::TempDir);

impl Files {
    /// A certificate for 127.0.0.1 that signs itself, its key, and a key of no certificate.
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&key).unwrap();
        files.write("cert.pem", &certificate.pem());
        files.write("key.pem", &key.serialize_pem());
        files.write("other.pem", &KeyPair::generate().unwrap().serialize_pem());
        files.write("empty.pem", "");
        files.write("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[tokio::test]
async fn a_viewer_comes_by_wss_and_trusts_whom_it_is_told_to() {
    let files = Files::new();
    let tls = Tls::from_files(&files.path("cert.pem"), &files.path("key.pem")).unwrap();
    let access = Access { token: Some(Token::new(TOKEN).unwrap()), tls: Some(tls), ..Access::default() };
    let served = Served::start(ServerConfig { access, ..ServerConfig::default() }).await;
    let url = served.url().replace("ws://", "wss://");

    let caller = Caller::default().with_token(TOKEN).unwrap().trusting(&files.path("cert.pem")).unwrap();
    let mut client = Client::connect_as(&caller, &url, Kind::H264).await.unwrap();
    served.hub.publish(&packet(0, true));
    assert_eq!(next_packet(&mut client).await, packet(0, true));

    let distrustful = Caller::default().with_token(TOKEN).unwrap();
    let error = Client::connect_as(&distrustful, &url, Kind::H264).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let stranger = Caller::default().trusting(&files.path("cert.pem")).unwrap();
    let error = Client::connect_as(&stranger, &url, Kind::H264).await.unwrap_err().to_string();
    assert!(error.contains("401"), "{error}");
    assert!(Client::connect_as(&caller, &served.url(), Kind::H264).await.is_err(), "in the clear");
}

#[test]
fn unusable_files_are_named() {
    let files = Files::new();
    let reason =
        |chain: &str, key: &str| match Tls::from_files(&files.path(chain), &files.path(key)).unwrap_err() {
            Error::Tls { path, reason } => (name_of(&path), reason),
            other => panic!("{other}"),
        };
    for (chain, key, blamed, words) in [
        ("none.pem", "key.pem", "none.pem", "No such file"),
        ("empty.pem", "key.pem", "empty.pem", "found none"),
        ("broken.pem", "key.pem", "broken.pem", ""),
        ("key.pem", "key.pem", "key.pem", "found none"),
        ("cert.pem", "none.pem", "none.pem", "No such file"),
        ("cert.pem", "cert.pem", "cert.pem", "found none"),
        ("cert.pem", "other.pem", "other.pem", "does not go with the certificate in"),
    ] {
        let (path, reason) = reason(chain, key);
        assert!(path == blamed && reason.contains(words), "{chain} {key}: {path}: {reason}");
    }
    let error = Caller::default().trusting(&files.path("key.pem")).unwrap_err();
    assert!(error.to_string().contains("found none"), "{error}");
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
