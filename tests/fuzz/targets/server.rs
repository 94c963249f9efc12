//! A real server on a loopback port, and bytes on a connection to it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use acdit_io::{
    Control, Hub, LabelInfo, MAIN, Refusal, Reply, ServerConfig, Session, Sessions, Size, Wanted, WorldInfo,
    WorldSource, serve_sessions,
};

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A world that does everything at once and shows nothing.
struct Nothing;

impl WorldSource for Nothing {
    fn info(&self) -> WorldInfo {
        let label = |name: &str| LabelInfo { name: name.into(), key: None };
        let input = Size { width: 2, height: 2 };
        let labels = vec![label("still"), label("left")];
        WorldInfo { labels, input, frames_per_block: 4, ..WorldInfo::default() }
    }

    fn control(&self, _: Control, reply: Reply) {
        reply.applied(0);
    }

    fn request_keyframe(&self) {}

    fn viewers(&self, _: usize, _: usize) {}
}

impl Sessions for Nothing {
    /// None is ever begun: those of earlier inputs would change what later ones meet.
    fn open_all(&self, wanted: &[(String, Wanted)]) -> Result<Vec<(Arc<dyn WorldSource>, Hub)>, Refusal> {
        assert!(wanted.iter().all(|(_, wanted)| wanted.label.is_none_or(|label| label < 2)));
        Err(Refusal::new("full", "none"))
    }

    fn ended(&self, _: &str) {}
}

fn address() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let hub = Hub::new(Duration::from_secs(1));
                let source = Arc::new(Nothing);
                let main = Session { id: MAIN.to_owned(), source, hub, private: false, unattended: false };
                let config = ServerConfig { upload_bytes: 4096, ..ServerConfig::default() };
                let forever = std::future::pending();
                serve_sessions(listener, main, Vec::new(), Some(Arc::new(Nothing)), config, forever).await
            })
        });
        address
    })
}

/// Sends what `$HOST` stands in for, says that nothing more comes, and reads to the end.
fn exchange(bytes: &[u8]) -> Vec<u8> {
    const HOST: &[u8] = b"$HOST";
    let address = address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = Vec::with_capacity(bytes.len() + 32);
    let mut rest = bytes;
    while let Some(at) = rest.windows(HOST.len()).position(|window| window == HOST) {
        request.extend_from_slice(&rest[..at]);
        request.extend_from_slice(address.to_string().as_bytes());
        rest = &rest[at + HOST.len()..];
    }
    request.extend_from_slice(rest);
    // The server may answer and stop reading before all is sent.
    let _ = stream.write_all(&request).and_then(|()| stream.shutdown(Shutdown::Write));
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
            // libFuzzer's clock
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no end after {} bytes: {error}", answer.len()),
        }
    }
}

/// A whole connection's bytes.
pub(super) fn http(bytes: &[u8]) {
    let answer = exchange(bytes);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
}

/// What a viewer sends once its connection is a WebSocket.
pub(super) fn websocket(bytes: &[u8]) {
    const UPGRADE: &[u8] =
        b"GET /ws HTTP/1.1\r\nHost: $HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = exchange(&[UPGRADE, bytes].concat());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 101 "));
}
