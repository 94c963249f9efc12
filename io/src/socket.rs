//! One viewer's WebSocket: hello, then requests in and pictures out until either side ends it.
//!
//! Reading and writing are two loops in one task, so that a viewer on a slow line can still steer. They meet in one
//! bounded queue of answers; when that is full the reader waits, and TCP makes the viewer wait.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code},
};
use futures_util::{
    FutureExt as _, Sink, SinkExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered,
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, interval_at, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite;

use crate::{
    hub::{Delivery, Viewer},
    protocol::{
        ClientMessage, Future, Inject, Kind, MAX_PACKET, Misread, Request, ServerMessage, State, VERSION,
        WorldInfo,
    },
    server::App,
    sessions::Unclaimed,
    source::{Control, Fork, Refusal, Reply, Wanted, outcome},
};

/// Largest text message of a viewer, in bytes. A longer one ends the connection with 1009.
const TEXT_BYTES: usize = 16 << 10;

/// What the WebSocket library will buffer of one message at least: above [`TEXT_BYTES`], so that a message somewhat too
/// long is read to its end and its sender surely gets to see the 1009.
const TRANSPORT_BYTES: usize = 1 << 20;

/// Read buffer of one connection, in bytes. Viewers send little.
const READ_BUFFER: usize = 8 << 10;

/// Unsent bytes of one connection: the largest packet and its frame. One message is written at a time, so that this
/// is never exceeded.
pub(crate) const WRITE_BUFFER: usize = MAX_PACKET + FRAMING;

/// What comes on top of a message.
pub(crate) const FRAMING: usize = 256 << 10;

/// Answers waiting to be written; when full, the viewer's requests wait.
const ANSWERS: usize = 32;

/// Controls of one viewer that the world has not answered; further ones are refused as `busy`.
const OPEN_CONTROLS: usize = 32;

/// Injections of one viewer that the world has not answered; they hold their pixels. Further ones are refused as `busy`.
const OPEN_INJECTS: usize = 2;

/// How long a viewer may take to answer a close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Why a connection ends, as a close code and words for the viewer; `None` when there is nobody left to tell.
pub(crate) type Ending = Option<(u16, &'static str)>;

const STOPPING: Ending = Some((close_code::AWAY, "the stream has ended"));
const SILENT: Ending = Some((close_code::POLICY, "nothing heard for too long"));

/// What the WebSocket library will buffer of one message to this world.
pub(crate) fn transport_bytes(info: &WorldInfo) -> usize {
    TRANSPORT_BYTES.max(Inject::longest(info.input, info.frames_per_block))
}

/// Serves one viewer to the end of its connection.
pub(crate) async fn run(websocket: WebSocket, app: App) {
    let (mut sink, mut stream) = websocket.split();
    let ending = tokio::select! {
        ending = watch_stream(&mut sink, &mut stream, &app) => ending,
        () = app.stop.cancelled() => STOPPING,
    };
    // A session that has ended does not wait for farewells.
    drop(app);
    part(&mut sink, &mut stream, ending).await;
}

/// Bounds what one connection holds: messages of `read` bytes, and `write` bytes that are not sent.
pub(crate) fn limited(upgrade: WebSocketUpgrade, read: usize, write: usize) -> WebSocketUpgrade {
    upgrade
        .max_message_size(read)
        .max_frame_size(read)
        .read_buffer_size(READ_BUFFER)
        .max_write_buffer_size(write)
}

/// Tells the viewer why its connection ends, and waits for it to agree.
pub(crate) async fn part(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    ending: Ending,
) {
    let Some((code, reason)) = ending else { return };
    tracing::debug!(code, reason, "closing a viewer");
    let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    let farewell = async {
        if sink.send(close).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _ = timeout(CLOSE_DEADLINE, farewell).await;
}

async fn watch_stream(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
    app: &App,
) -> Ending {
    let info = app.source.info();
    let mut state = app.hub.state();
    let hello = ServerMessage::Hello {
        version: VERSION.into(),
        info: Box::new(info.clone()),
        state: Box::new(state.borrow_and_update().clone()),
        upload_bytes: app.config.upload_bytes as u64,
    };
    let (answers, outbox) = mpsc::channel(ANSWERS);
    let mut writer = Writer { sink, deadline: app.config.write_deadline };
    if let Err(ending) = writer.send(text(&hello)).await {
        return ending;
    }
    let mut reader = Reader { stream, answers, app, info, injects: Arc::new(Semaphore::new(OPEN_INJECTS)) };
    let kind = match timeout(app.config.header_deadline, reader.hello()).await {
        Ok(Ok(kind)) => kind,
        Ok(Err(ending)) => return ending,
        Err(_) => return Some((close_code::POLICY, "no hello came")),
    };
    let viewer = app.hub.join(kind);
    tokio::select! {
        ending = reader.run() => ending,
        ending = writer.run(outbox, state, viewer, app) => ending,
    }
}

struct Writer<'a, S> {
    sink: &'a mut S,
    deadline: Duration,
}

impl<S: Sink<Message, Error = axum::Error> + Unpin> Writer<'_, S> {
    async fn send(&mut self, message: Message) -> Result<(), Ending> {
        match timeout(self.deadline, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(None),
        }
    }

    /// Writes answers, state and pictures as they come; answers first, so that a control feels prompt.
    async fn run(
        &mut self,
        mut outbox: mpsc::Receiver<ServerMessage>,
        mut state: watch::Receiver<State>,
        mut viewer: Viewer,
        app: &App,
    ) -> Ending {
        let period = app.config.ping_interval;
        let mut ping = interval_at(Instant::now() + period, period);
        loop {
            let message = tokio::select! {
                biased;
                Some(answer) = outbox.recv() => text(&answer),
                Ok(()) = state.changed() => text(&ServerMessage::State(state.borrow_and_update().clone())),
                _ = ping.tick() => Message::Ping(Bytes::new()),
                delivery = viewer.next() => match delivery {
                    Delivery::Packet(packet) => Message::Binary(packet),
                    Delivery::Gap(dropped) => text(&ServerMessage::Gap { dropped }),
                    Delivery::NeedsKeyframe => {
                        app.source.request_keyframe();
                        continue;
                    }
                },
            };
            if let Err(ending) = self.send(message).await {
                return ending;
            }
        }
    }
}

struct Reader<'a, S> {
    stream: &'a mut S,
    answers: mpsc::Sender<ServerMessage>,
    app: &'a App,
    info: WorldInfo,
    injects: Arc<Semaphore>,
}

impl<S: Stream<Item = Result<Message, axum::Error>> + Unpin> Reader<'_, S> {
    /// The viewer's first message, which must be a hello of our version.
    async fn hello(&mut self) -> Result<Kind, Ending> {
        let protocol_error = |reason| Err(Some((close_code::PROTOCOL, reason)));
        loop {
            let said = said(self.stream.next().await)?;
            let Some(said) = said else { continue };
            let Said::Text(text) = said else { return Err(NOT_ACCEPTED) };
            return match ClientMessage::parse(&text) {
                Ok(ClientMessage { request: Request::Hello { version, kind }, id }) => {
                    if version != u32::from(VERSION) {
                        return protocol_error("this server speaks protocol version 1");
                    }
                    self.answer(ServerMessage::Received { id }).await?;
                    Ok(kind)
                }
                _ => protocol_error("the first message must be a hello"),
            };
        }
    }

    async fn run(&mut self) -> Ending {
        let mut open: FuturesUnordered<Open> = FuturesUnordered::new();
        let mut heard = Instant::now();
        loop {
            let step = tokio::select! {
                message = timeout_at(heard + self.app.config.silence_limit, self.stream.next()) => {
                    let Ok(message) = message else { return SILENT };
                    heard = Instant::now();
                    self.take(message, open.len()).await
                }
                Some((answer, sessions)) = open.next() => self.answer(answer).await.map(|()| {
                    sessions.map(Unclaimed::claim_all);
                    None
                }),
            };
            match step {
                Ok(Some(answer)) => open.push(answer),
                Ok(None) => {}
                Err(ending) => return ending,
            }
        }
    }

    /// Handles one message; a control that was passed on is returned as its answer to come.
    async fn take(&mut self, message: Incoming, open: usize) -> Result<Option<Open>, Ending> {
        let text = match said(message)? {
            None => return Ok(None),
            Some(Said::Inject(inject)) => return self.inject(inject, open).await,
            Some(Said::Text(text)) => text,
        };
        let ClientMessage { id, request } = match ClientMessage::parse(&text) {
            Ok(message) => message,
            Err(Misread { id, code, message }) => {
                self.refuse(id, code, message).await?;
                return Ok(None);
            }
        };
        let control = match request {
            Request::Hello { .. } => {
                self.refuse(Some(id), "unexpected", "hello was said already").await?;
                return Ok(None);
            }
            Request::Ping => {
                self.answer(ServerMessage::Received { id }).await?;
                return Ok(None);
            }
            Request::Label { index } => Control::Label { index },
            Request::Pause => Control::Pause,
            Request::Resume => Control::Resume,
            Request::Step => Control::Step,
            Request::Restart { seed } => Control::Restart { seed },
            Request::Seed { seed } => Control::Seed { seed },
            Request::Sampling { steps, guidance } => Control::Sampling { steps, guidance },
            Request::Rewind { block } => Control::Rewind { block },
            Request::Record { on } => Control::Record { on },
            Request::Fork { block } => return self.fork(id, block, open).await,
            Request::Futures { block, each } => return self.futures(id, block, each, open).await,
        };
        if let Control::Label { index } = control
            && !self.knows(id, index).await?
        {
            return Ok(None);
        }
        self.pass_on(id, control, open).await
    }

    /// Whether the world has a label; if not, the viewer is told.
    async fn knows(&self, id: u64, label: u32) -> Result<bool, Ending> {
        let labels = self.info.labels.len();
        let known = (label as usize) < labels;
        if !known {
            let message = format!("expected a label index below {labels}, got {label}");
            self.refuse(Some(id), "unknown_label", message).await?;
        }
        Ok(known)
    }

    /// Says that a request was received, unless too many wait already.
    async fn receive(&self, id: u64, open: usize) -> Result<bool, Ending> {
        let busy = open >= OPEN_CONTROLS;
        match busy {
            true => self.refuse(Some(id), "busy", "too many requests are waiting").await?,
            false => self.answer(ServerMessage::Received { id }).await?,
        }
        Ok(!busy)
    }

    async fn pass_on(&self, id: u64, control: Control, open: usize) -> Result<Option<Open>, Ending> {
        if !self.receive(id, open).await? {
            return Ok(None);
        }
        let (reply, answer) = Reply::channel();
        self.app.source.control(control, reply);
        let metrics = self.app.metrics.clone();
        let answered = async move {
            let outcome = outcome(answer).await;
            metrics.control(outcome.is_ok());
            let answer = match outcome {
                Ok(block) => ServerMessage::Applied { id, block, session: None, sessions: None },
                Err(refusal) => refused(id, refusal),
            };
            (answer, None)
        };
        Ok(Some(answered.boxed()))
    }

    async fn inject(&self, inject: Inject, open: usize) -> Result<Option<Open>, Ending> {
        let id = inject.id;
        let frames = match inject.frames(self.info.input, self.info.frames_per_block) {
            Ok(frames) => frames,
            Err(message) => {
                self.refuse(Some(id), "bad_frames", message).await?;
                return Ok(None);
            }
        };
        let Ok(permit) = self.injects.clone().try_acquire_owned() else {
            self.refuse(Some(id), "busy", "too many frames are waiting").await?;
            return Ok(None);
        };
        let Some(answered) = self.pass_on(id, Control::Inject { frames }, open).await? else {
            return Ok(None);
        };
        Ok(Some(answered.inspect(move |_| drop(permit)).boxed()))
    }

    /// Begins a session that leaves this one at `block`.
    async fn fork(&self, id: u64, block: u64, open: usize) -> Result<Option<Open>, Ending> {
        if !self.receive(id, open).await? {
            return Ok(None);
        }
        let (rooms, session) = (self.app.rooms.clone(), self.app.session.clone());
        let answered = async move {
            let wanted = Wanted { fork: Some(Fork { session, block }), ..Wanted::default() };
            match rooms.open(wanted).await {
                Ok(begun) => {
                    let session = begun.ids().first().cloned();
                    (ServerMessage::Applied { id, block, session, sessions: None }, Some(begun))
                }
                Err(refusal) => (refused(id, refusal), None),
            }
        };
        Ok(Some(answered.boxed()))
    }

    /// Begins several sessions that leave this one at `block`.
    async fn futures(
        &self,
        id: u64,
        block: u64,
        each: Vec<Future>,
        open: usize,
    ) -> Result<Option<Open>, Ending> {
        for label in each.iter().filter_map(|future| future.label) {
            if !self.knows(id, label).await? {
                return Ok(None);
            }
        }
        if !self.receive(id, open).await? {
            return Ok(None);
        }
        let (rooms, session) = (self.app.rooms.clone(), self.app.session.clone());
        let answered = async move {
            match rooms.futures(&Fork { session, block }, &each).await {
                Ok(begun) => {
                    let sessions = Some(begun.ids().to_vec());
                    (ServerMessage::Applied { id, block, session: None, sessions }, Some(begun))
                }
                Err(refusal) => (refused(id, refusal), None),
            }
        };
        Ok(Some(answered.boxed()))
    }

    async fn refuse(&self, id: Option<u64>, code: &str, message: impl Into<String>) -> Result<(), Ending> {
        self.answer(ServerMessage::Refused { id, code: code.into(), message: message.into() }).await
    }

    async fn answer(&self, answer: ServerMessage) -> Result<(), Ending> {
        self.answers.send(answer).await.map_err(|_| None)
    }
}

type Incoming = Option<Result<Message, axum::Error>>;
type Open = BoxFuture<'static, Answered>;

/// An answer, and sessions that are nobody's until it is on its way.
type Answered = (ServerMessage, Option<Unclaimed>);

fn refused(id: u64, refusal: Refusal) -> ServerMessage {
    ServerMessage::Refused { id: Some(id), code: refusal.code, message: refusal.message }
}

fn text(message: &ServerMessage) -> Message {
    Message::Text(serde_json::to_string(message).expect("messages have string keys only").into())
}

/// What a viewer said.
enum Said {
    Text(Utf8Bytes),
    Inject(Inject),
}

/// What a message says, `None` for a ping or pong, or how the connection ends.
fn said(message: Incoming) -> Result<Option<Said>, Ending> {
    match message {
        Some(Ok(Message::Text(text))) if text.len() > TEXT_BYTES => Err(TOO_BIG),
        Some(Ok(Message::Text(text))) => Ok(Some(Said::Text(text))),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Binary(bytes))) => {
            Inject::decode(bytes).map(|inject| Some(Said::Inject(inject))).ok_or(NOT_ACCEPTED)
        }
        Some(Ok(Message::Close(_))) | None => Err(None),
        Some(Err(error)) => Err(ending_of(error)),
    }
}

const NOT_ACCEPTED: Ending = Some((close_code::UNSUPPORTED, "a binary message carries frames to inject"));

const TOO_BIG: Ending =
    Some((close_code::SIZE, "a text message may have 16 KiB, a binary one a block of frames"));

/// How a connection ends on which this went wrong.
pub(crate) fn ending_of(error: axum::Error) -> Ending {
    use tungstenite::Error::{Capacity, Protocol, Utf8};
    match error.into_inner().downcast_ref() {
        Some(Capacity(_)) => TOO_BIG,
        Some(Utf8(_)) => Some((close_code::INVALID, "text must be UTF-8")),
        Some(Protocol(_)) => Some((close_code::PROTOCOL, "not a valid WebSocket frame")),
        _ => None,
    }
}
