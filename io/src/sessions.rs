//! The sessions that are served, and `/api/sessions`: begin one, look at it, fork it, end it.
//!
//! One session is there from the start and for ever, [`MAIN`]; others come and go. Making one may take a while, since it
//! waits for the world, so it happens off the server's own threads.

pub(crate) mod asked;
mod continuation;
mod futures;
mod tenant;
mod unclaimed;
mod waiting_line;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use rand::Rng as _;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{asked::Asked, waiting_line::Line};
pub(crate) use self::{tenant::Tenant, unclaimed::Unclaimed};
use crate::{
    guard::Rejection,
    hub::{Demand, Hub},
    metrics::Metrics,
    peer::Peer,
    protocol,
    server::{App, ServerConfig, report_demand},
    source::{PastBlock, Refusal, Session, Sessions, Wanted, WorldSource},
};

/// The session that `/ws` shows.
pub const MAIN: &str = "main";

/// A session that is being served.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) id: String,
    pub(crate) source: Arc<Tenant>,
    pub(crate) hub: Hub,
    private: bool,
    unattended: bool,
    ephemeral: bool,
    /// One permit for each viewer that may be there, taken before its hello.
    seats: Arc<Semaphore>,
    /// Ends its viewers' connections.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the source is gone and its place free.
    gone: CancellationToken,
}

/// All sessions.
#[derive(Clone)]
pub(crate) struct Rooms {
    rooms: Arc<Mutex<BTreeMap<String, Room>>>,
    maker: Option<Arc<dyn Sessions>>,
    places: Arc<Semaphore>,
    line: Line,
    /// How long an ephemeral session outlives its last viewer.
    linger: Duration,
    /// The server's own: a session ends with the server, not with one that it was forked from.
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

/// How many there are of what comes and goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    pub(crate) sessions: usize,
    pub(crate) viewers: usize,
    /// Requests that wait for a place.
    pub(crate) waiting: usize,
}

impl Rooms {
    pub(crate) fn new(
        maker: Option<Arc<dyn Sessions>>,
        config: &ServerConfig,
        stop: CancellationToken,
        tasks: TaskTracker,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            rooms: Arc::default(),
            maker,
            places: Arc::new(Semaphore::new(config.max_sessions)),
            line: Line::default(),
            linger: config.linger,
            stop,
            tasks,
            metrics,
        }
    }

    pub(crate) fn census(&self) -> Census {
        let rooms = self.lock();
        let viewers = rooms.values().map(|room| room.hub.stats().viewers).sum();
        Census { sessions: rooms.len(), viewers, waiting: self.line.len() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: &str) -> Result<Room, Rejection> {
        let unknown = || Rejection::new(StatusCode::NOT_FOUND, "no_session", "there is no such session");
        self.lock().get(id).cloned().ok_or_else(unknown)
    }

    /// The recordings that are being made, each with its session's next block.
    pub(crate) fn recordings(&self) -> Vec<(protocol::Recording, u64)> {
        let rooms = self.lock();
        let states = rooms.values().map(|room| room.hub.state().borrow().clone());
        states.filter_map(|state| Some((state.recording?, state.block))).collect()
    }

    /// Takes in a session that was there before the server, even if there is no place for it.
    pub(crate) fn add(&self, session: Session) -> Room {
        let place = (session.id != MAIN).then(|| self.places.clone().try_acquire_owned().ok()).flatten();
        self.seat(session, place, false)
    }

    fn seat(&self, session: Session, place: Option<OwnedSemaphorePermit>, ephemeral: bool) -> Room {
        let Session { id, source, hub, private, unattended } = session;
        let (stop, gone) = (self.stop.child_token(), CancellationToken::new());
        let source = Arc::new(Tenant::new(source, place, gone.clone()));
        hub.count_in(self.metrics.clone());
        self.tasks.spawn(report_demand(hub.demand(), source.clone(), unattended, stop.clone()));
        let seats = Arc::new(Semaphore::new(if private { 1 } else { Semaphore::MAX_PERMITS }));
        let room = Room { id: id.clone(), source, hub, private, unattended, ephemeral, seats, stop, gone };
        self.lock().insert(id, room.clone());
        if ephemeral {
            self.tasks.spawn(self.clone().end_unwatched(room.clone()));
        }
        room
    }

    /// Ends a session when nobody has watched it for [`ServerConfig::linger`].
    async fn end_unwatched(self, Room { id, hub, source, stop, .. }: Room) {
        // Held by its viewers and the list only, so that it is gone as soon as they let go of it.
        drop(source);
        let mut demand = hub.demand();
        loop {
            let watched = *demand.borrow_and_update() != Demand::default();
            let wait = if watched { Duration::MAX } else { self.linger };
            tokio::select! {
                changed = timeout(wait, demand.changed()) => match changed {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => break,
                },
                () = stop.cancelled() => return,
            }
        }
        if self.close(&id).await.is_err() {
            tracing::debug!(id, "a session that nobody watches was gone already");
        }
    }

    /// Begins a session if there is a place for it.
    pub(crate) async fn open(&self, wanted: Wanted) -> Result<Unclaimed, Refusal> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| full())?;
        self.open_in(wanted, place).await
    }

    /// Begins a session in a place.
    async fn open_in(&self, wanted: Wanted, place: OwnedSemaphorePermit) -> Result<Unclaimed, Refusal> {
        self.open_all_in(vec![wanted], place).await
    }

    /// Begins sessions in as many places, all or none. Whoever asked may leave meanwhile, and the world makes them all the
    /// same: they are waited for in any case, and ended if nobody is left to learn their ids.
    async fn open_all_in(
        &self,
        wanted: Vec<Wanted>,
        places: OwnedSemaphorePermit,
    ) -> Result<Unclaimed, Refusal> {
        let (answer, answered) = oneshot::channel();
        let rooms = self.clone();
        self.tasks.spawn(async move {
            let made = rooms.make(wanted, places).await;
            let _ = answer.send(made.map(|ids| Unclaimed::new(rooms, ids)));
        });
        answered.await.unwrap_or_else(|_| Err(failed()))
    }

    async fn make(
        &self,
        wanted: Vec<Wanted>,
        mut places: OwnedSemaphorePermit,
    ) -> Result<Vec<String>, Refusal> {
        let Some(maker) = self.maker.clone() else {
            return Err(refused("unsupported", "this world has one session only"));
        };
        // 64 random bits: an id cannot be guessed, and none is used twice.
        let id = || format!("{:016x}", rand::rng().random::<u64>());
        let wanted: Vec<(String, Wanted)> = wanted.into_iter().map(|wanted| (id(), wanted)).collect();
        let opening =
            tokio::task::spawn_blocking(move || maker.open_all(&wanted).map(|opened| (wanted, opened)));
        let opened = opening.await.map_err(|_| failed()).flatten();
        let (wanted, opened) = opened.inspect_err(|refusal| {
            if refusal.code == FAILED {
                self.metrics.session_failed();
            }
        })?;
        let seated = wanted.into_iter().zip(opened).map(|((id, wanted), (source, hub))| {
            let Wanted { private, unattended, ephemeral, .. } = wanted;
            let place = places.split(1);
            self.seat(Session { id: id.clone(), source, hub, private, unattended }, place, ephemeral);
            id
        });
        Ok(seated.collect())
    }

    /// Ends a session, and waits until its source is gone, even if whoever asked for it does not.
    async fn close(&self, id: &str) -> Result<(), Rejection> {
        if id == MAIN {
            let message = "the main session lasts as long as the server";
            return Err(Rejection::new(StatusCode::CONFLICT, "main_session", message));
        }
        let room = self.get(id)?;
        self.lock().remove(id);
        room.stop.cancel();
        let (gone, maker, id) = (room.gone.clone(), self.maker.clone(), id.to_owned());
        drop(room);
        let ended = self.tasks.spawn(async move {
            gone.cancelled().await;
            tokio::task::spawn_blocking(move || maker.inspect(|maker| maker.ended(&id))).await
        });
        if !matches!(ended.await, Ok(Ok(_))) {
            tracing::error!("a session did not end as it should");
        }
        Ok(())
    }
}

fn refused(code: &str, message: &str) -> Refusal {
    Refusal::new(code, message)
}

fn full() -> Refusal {
    refused("full", "all sessions are taken: try again later")
}

/// The code of what the world could not do, though nothing was wrong with the request.
const FAILED: &str = "failed";

fn failed() -> Refusal {
    refused(FAILED, "the world could not do that")
}

/// A session that has just begun.
#[derive(Debug, Serialize)]
struct Begun {
    session: String,
    ws: String,
}

/// Where a session stands.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    session: String,
    private: bool,
    unattended: bool,
    ephemeral: bool,
    viewers: usize,
    state: protocol::State,
}

impl Room {
    fn listed(&self) -> Listed {
        Listed {
            session: self.id.clone(),
            private: self.private,
            unattended: self.unattended,
            ephemeral: self.ephemeral,
            viewers: self.hub.stats().viewers,
            state: self.hub.state().borrow().clone(),
        }
    }

    /// A viewer's seat, to be held for as long as it is connected: a private session has one.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Rejection> {
        let message = "this session is private, and its viewer is here already";
        let private = |_| Rejection::new(StatusCode::FORBIDDEN, "private", message);
        self.seats.clone().try_acquire_owned().map_err(private)
    }
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Rejection> {
    let Asked { wanted, wait, clip } = asked::read(&app, &headers, body).await?;
    // The guard has checked it: it is one of ours.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let scheme = if peer.secure { "wss" } else { "ws" };
    let begun = move |session: String| Begun { ws: format!("{scheme}://{host}/ws/{session}"), session };
    let created = |session| Ok((StatusCode::CREATED, Json(begun(session))).into_response());
    if let Some(clip) = clip {
        return created(continuation::begin(app, wanted, clip).await?);
    }
    match app.rooms.open(wanted.clone()).await {
        Ok(session) => created(session.claim()),
        Err(refusal) if wait && refusal.code == "full" => waiting_line::wait(app, wanted, begun),
        Err(refusal) => Err(rejected(refusal)),
    }
}

pub(crate) async fn list(State(app): State<App>) -> Json<Vec<Listed>> {
    Json(app.rooms.lock().values().map(Room::listed).collect())
}

pub(crate) async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Listed>, Rejection> {
    Ok(Json(app.rooms.get(&id)?.listed()))
}

pub(crate) async fn delete(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, Rejection> {
    app.rooms.close(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn log(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Rejection> {
    let log = waiting(app.rooms.get(&id)?, |source| source.log()).await?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], log).into_response())
}

pub(crate) async fn past(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Vec<PastBlock>>, Rejection> {
    Ok(Json(waiting(app.rooms.get(&id)?, |source| source.past()).await?))
}

/// A session as it is on disk.
#[derive(Debug, Serialize)]
pub(crate) struct Saved {
    session: String,
    /// The next block.
    block: u64,
}

pub(crate) async fn save(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Saved>), Rejection> {
    let block = waiting(app.rooms.get(&id)?, |source| source.save()).await?;
    Ok((StatusCode::CREATED, Json(Saved { session: id, block })))
}

pub(crate) async fn saved(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Saved>, Rejection> {
    let block = waiting(app.rooms.get(&id)?, |source| source.saved()).await?;
    Ok(Json(Saved { session: id, block }))
}

/// Asks a session's world for something that may take a block.
async fn waiting<T: Send + 'static>(
    room: Room,
    ask: impl FnOnce(&dyn WorldSource) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Rejection> {
    let answer = tokio::task::spawn_blocking(move || ask(&**room.source)).await;
    let failed = |_| Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the world failed");
    answer.map_err(failed)?.map_err(rejected)
}

fn rejected(refusal: Refusal) -> Rejection {
    let Refusal { code, message, detail } = refusal;
    let rejection = match code.as_str() {
        "full" => Rejection::new(StatusCode::TOO_MANY_REQUESTS, code, message).retry_after(),
        "no_session" | "no_snapshot" => Rejection::new(StatusCode::NOT_FOUND, code, message),
        "no_state" | "unsupported" => Rejection::new(StatusCode::CONFLICT, code, message),
        _ => Rejection::new(StatusCode::UNPROCESSABLE_ENTITY, code, message),
    };
    rejection.because(detail, false)
}
