//! The HTTP server: its routes, its limits, and how it ends.
//!
//! It has its own accept loop because `axum::serve` offers no header deadline and no cap on connections, and because
//! WebSocket tasks outlive the connection that they were upgraded from: they are tracked here, so that shutdown can
//! close each with 1001 and wait.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, State, ws::WebSocketUpgrade},
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, service::Service as _, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    Error,
    guard::{Access, Gate, Rejection},
    hub::{Demand, Hub, HubStats},
    metrics::Metrics,
    peer::{Crowd, Held, Peer},
    protocol,
    protocol::WorldInfo,
    readiness::Readiness,
    routes,
    sessions::{MAIN, Room, Rooms, Tenant},
    socket,
    source::{Session, Sessions, WorldSource},
};

/// Pause after a failed `accept` (out of file descriptors, mostly) so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connections that are being told that their address has its share; further ones are dropped without a word.
const REFUSALS: usize = 16;

/// How long such a connection may take to ask and to be told.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(1);

/// What the kernel takes of a connection beyond what is on its way, in bytes. It would take megabytes: a viewer that has
/// stalled would be noticed minutes later, and one that is slow would be shown what was new seconds ago.
const UNSENT_BYTES: u32 = 16 << 10;

/// Limits of a server. The default suits a person's own machine.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Open HTTP connections; further ones wait unaccepted.
    pub max_connections: usize,
    /// Open HTTP connections of one address (one /64 of IPv6); further ones get 429 with Retry-After. Loopback addresses
    /// and trusted proxies may have any number. Those that are refused do not count among `max_connections`.
    pub max_connections_per_address: usize,
    /// WebSocket viewers; further ones get 503 with Retry-After.
    pub max_viewers: usize,
    /// WebSocket viewers from one address, as for connections, but told apart behind a trusted proxy.
    pub max_viewers_per_address: usize,
    /// Sessions beside the main one; further ones are refused with 429.
    pub max_sessions: usize,
    /// How long an ephemeral session goes on without viewers, or waits for its first.
    pub linger: Duration,
    /// Clips being uploaded at once; further ones get 503 with Retry-After.
    pub max_uploads: usize,
    /// Where recordings lie, if sessions can be recorded.
    pub recordings: Option<PathBuf>,
    /// Largest clip, in bytes.
    pub upload_bytes: usize,
    /// Longest time for a clip to arrive, and again for the world to take it.
    pub upload_deadline: Duration,
    /// Longest time for a request's headers, an idle connection included, for a viewer's hello, and for a session's fields.
    pub header_deadline: Duration,
    /// Longest time for one message to leave; then the viewer is dropped.
    pub write_deadline: Duration,
    /// How often a viewer is pinged.
    pub ping_interval: Duration,
    /// A viewer that has sent nothing, not even a pong, for so long is dropped.
    pub silence_limit: Duration,
    /// Longest wait for tasks at shutdown.
    pub shutdown_deadline: Duration,
    /// Who may connect, and under which names.
    pub access: Access,
    /// Withdrawn by whoever ends the server, some time before it is ended.
    pub readiness: Readiness,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_connections_per_address: 64,
            max_viewers: 64,
            max_viewers_per_address: 32,
            max_sessions: 15,
            linger: Duration::from_secs(30),
            max_uploads: 4,
            recordings: None,
            upload_bytes: 64 << 20,
            upload_deadline: Duration::from_secs(60),
            header_deadline: Duration::from_secs(10),
            write_deadline: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            silence_limit: Duration::from_secs(30),
            shutdown_deadline: Duration::from_secs(8),
            access: Access::default(),
            readiness: Readiness::default(),
        }
    }
}

/// What every handler shares: one session, the main one unless said otherwise, and the server around it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) session: String,
    pub(crate) rooms: Rooms,
    pub(crate) source: Arc<Tenant>,
    pub(crate) hub: Hub,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) stop: CancellationToken,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) metrics: Arc<Metrics>,
    viewers: Arc<Semaphore>,
    crowd: Crowd,
    pub(crate) tasks: TaskTracker,
}

impl App {
    /// This server, as the viewers of one session see it.
    pub(crate) fn of(self, room: Room) -> Self {
        let Room { id, source, hub, stop, .. } = room;
        Self { session: id, source, hub, stop, ..self }
    }

    /// Whether new viewers are taken.
    pub(crate) fn is_ready(&self) -> bool {
        !self.config.readiness.is_withdrawn() && !self.stop.is_cancelled()
    }
}

/// Serves the page, the stream and the controls of `source` until `shutdown` completes, then closes every viewer
/// with 1001 and returns when its tasks have ended or [`ServerConfig::shutdown_deadline`] has passed.
///
/// # Errors
/// [`Error::NotLoopback`] for a listener that other machines can reach if there is no token, [`Error::BadName`] for a name that
/// cannot be one, [`Error::Network`] for a listener without an address.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn WorldSource>,
    hub: Hub,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let main = Session { id: MAIN.to_owned(), source, hub, private: false, unattended: false };
    serve_sessions(listener, main, Vec::new(), None, config, shutdown).await
}

/// As [`serve`], with other sessions beside the main one: those that are there already, and those that `maker` makes.
///
/// # Errors
/// As [`serve`].
pub async fn serve_sessions(
    listener: TcpListener,
    main: Session,
    others: Vec<Session>,
    maker: Option<Arc<dyn Sessions>>,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let address = listener.local_addr()?;
    let gate = Arc::new(Gate::new(address, config.access.clone(), config.readiness.clone())?);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let metrics = Arc::new(Metrics::default());
    let rooms = Rooms::new(maker, &config, stop.clone(), tasks.clone(), metrics.clone());
    let Room { id: session, source, hub, .. } = rooms.add(main);
    for session in others {
        rooms.add(session);
    }
    let app = App {
        session,
        source,
        hub,
        rooms,
        uploads: Arc::new(Semaphore::new(config.max_uploads)),
        gate,
        metrics,
        viewers: Arc::new(Semaphore::new(config.max_viewers)),
        crowd: Crowd::new(config.max_viewers_per_address),
        stop,
        tasks,
        config: Arc::new(config),
    };
    let router = routes::router(app.clone());

    tokio::select! {
        () = accept(listener, router, &app) => {}
        () = shutdown => {}
    }
    app.config.readiness.withdraw();
    app.stop.cancel();
    app.tasks.close();
    if timeout(app.config.shutdown_deadline, app.tasks.wait()).await.is_err() {
        tracing::warn!(tasks = app.tasks.len(), "shutdown deadline passed");
    }
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, app: &App) {
    let connections = Arc::new(Semaphore::new(app.config.max_connections));
    let crowd = Crowd::new(app.config.max_connections_per_address);
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let peer = Peer::new(address.ip(), false);
                let share = if peer.within(&app.gate.proxies) {
                    Some(Held::uncounted())
                } else {
                    crowd.enter(peer.ip)
                };
                let (config, stop) = (app.config.clone(), app.stop.clone());
                set_options(&stream);
                match share {
                    Some(share) => {
                        let router = router.clone();
                        app.tasks.spawn(async move {
                            opened(stream, peer, router, &config, stop).await;
                            drop((permit, share));
                        });
                    }
                    // Whoever has its share must not take what is left for others.
                    None => {
                        drop(permit);
                        let Ok(refusal) = refusals.clone().try_acquire_owned() else { continue };
                        let router = Router::new().fallback(too_many);
                        app.tasks.spawn(async move {
                            let told = opened(stream, peer, router, &config, stop);
                            if timeout(REFUSAL_DEADLINE, told).await.is_err() {
                                tracing::debug!("a connection beyond its address's share did not ask");
                            }
                            drop(refusal);
                        });
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// What an address is told that has its share of connections.
async fn too_many() -> Response {
    let message = "too many connections from this address";
    let rejection = Rejection::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message).retry_after();
    ([(header::CONNECTION, HeaderValue::from_static("close"))], rejection).into_response()
}

/// Serves an accepted connection, after its TLS handshake if there is one.
async fn opened(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    config: &ServerConfig,
    stop: CancellationToken,
) {
    let deadline = config.header_deadline;
    match &config.access.tls {
        None => connection(stream, peer, router, deadline, stop).await,
        Some(tls) => match timeout(deadline, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                connection(stream, Peer { secure: true, ..peer }, router, deadline, stop).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "no TLS connection"),
            Err(_) => tracing::debug!("the TLS handshake took too long"),
        },
    }
}

/// Answers one connection's requests until it ends, is upgraded, or the server stops.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    header_deadline: Duration,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_deadline)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}

/// What suits frames: small, and wanted at once. A socket that refuses an option is only slower.
fn set_options(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// Tells the source about demand, one call after another, so that the last one is the truth.
/// An unattended one always has a viewer.
pub(crate) async fn report_demand(
    mut demand: watch::Receiver<Demand>,
    source: Arc<Tenant>,
    unattended: bool,
    stop: CancellationToken,
) {
    loop {
        let Demand { h264, jpeg } = *demand.borrow_and_update();
        source.viewers(if unattended && jpeg == 0 { h264.max(1) } else { h264 }, jpeg);
        tokio::select! {
            changed = demand.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

pub(crate) async fn upgrade_to(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    websocket: WebSocketUpgrade,
) -> Result<Response, Rejection> {
    let room = app.rooms.get(&id)?;
    let seat = room.admit()?;
    admit(app.of(room), peer, Some(seat), websocket)
}

pub(crate) async fn upgrade(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    websocket: WebSocketUpgrade,
) -> Result<Response, Rejection> {
    admit(app, peer, None, websocket)
}

/// Lets a viewer in if there is room for it, with the seat that it has in its session.
fn admit(
    app: App,
    peer: Peer,
    seat: Option<OwnedSemaphorePermit>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Rejection> {
    let full = |_| {
        Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "full", "no seat is free for another viewer")
            .retry_after()
    };
    let crowded = || {
        let message = "too many viewers from this address";
        Rejection::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message).retry_after()
    };
    let share = app.crowd.enter(peer.ip).ok_or_else(crowded)?;
    let permit = app.viewers.clone().try_acquire_owned().map_err(full)?;
    let tasks = app.tasks.clone();
    let longest = socket::transport_bytes(&app.source.info());
    let upgrade = socket::limited(upgrade, longest, socket::WRITE_BUFFER);
    let span = tracing::Span::current();
    Ok(upgrade.on_upgrade(async move |websocket| {
        let viewer = tasks.track_future(socket::run(websocket, app).instrument(span));
        viewer.await;
        drop((permit, seat, share));
    }))
}

pub(crate) async fn ready(State(app): State<App>) -> Response {
    if !app.is_ready() {
        return Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the server is stopping")
            .into_response();
    }
    "ready\n".into_response()
}

#[derive(Serialize)]
pub(crate) struct Info {
    protocol: u8,
    info: WorldInfo,
    state: protocol::State,
    stream: HubStats,
}

pub(crate) async fn info(State(app): State<App>) -> Json<Info> {
    let state = app.hub.state().borrow().clone();
    Json(Info { protocol: protocol::VERSION, info: app.source.info(), state, stream: app.hub.stats() })
}
