//! Who waits for a session's place: first come, first served, and told where they stand.
//!
//! The answer to `{"wait": true}` is one JSON line for every place that the waiting one moves up to, and a last one with the
//! session, or with why there is none. Whoever hangs up leaves the line.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{Begun, Unclaimed, rejected};
use crate::{
    guard::Rejection,
    server::App,
    source::{Refusal, Wanted},
};

/// Those who may wait; one more is refused as `full`.
const LONGEST: usize = 64;

/// Everyone in the line, the first one first.
#[derive(Clone, Default)]
pub(super) struct Line(watch::Sender<Vec<u64>>);

/// A place in the line. Dropping it leaves the line.
struct Ticket {
    line: Line,
    number: u64,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn join(&self) -> Option<Ticket> {
        let mut number = None;
        self.0.send_if_modified(|line| {
            if line.len() < LONGEST {
                let next = line.last().map_or(0, |last| last + 1);
                line.push(next);
                number = Some(next);
            }
            number.is_some()
        });
        number.map(|number| Ticket { line: self.clone(), number })
    }
}

impl Ticket {
    /// 1 for who is next.
    fn place(&self) -> usize {
        self.line.0.borrow().iter().take_while(|&&number| number <= self.number).count()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.line.0.send_modify(|line| line.retain(|&number| number != self.number));
    }
}

/// Answers with the places of one who waits, and begins the session when it is their turn.
pub(super) fn wait(
    app: App,
    wanted: Wanted,
    begun: impl FnOnce(String) -> Begun + Send + 'static,
) -> Result<Response, Rejection> {
    let Some(ticket) = app.rooms.line.join() else {
        return Err(rejected(super::refused("full", "too many wait already: try again later")));
    };
    // One line at a time: a slow reader is told the place it has when it reads.
    let (lines, told) = mpsc::channel(1);
    let tasks = app.tasks.clone();
    tasks.spawn(stand(app, ticket, wanted, begun, lines));
    let body = Body::from_stream(stream::unfold(told, async |mut told| {
        let (line, session): (Value, Option<Unclaimed>) = told.recv().await?;
        session.map(Unclaimed::claim);
        Some((Ok::<_, Infallible>(Bytes::from(line.to_string() + "\n")), told))
    }));
    Ok((StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

async fn stand(
    app: App,
    ticket: Ticket,
    wanted: Wanted,
    begun: impl FnOnce(String) -> Begun + Send,
    lines: mpsc::Sender<(Value, Option<Unclaimed>)>,
) {
    let mut changes = ticket.line.0.subscribe();
    let mut turn = std::pin::pin!(app.rooms.places.clone().acquire_owned());
    let mut told = 0;
    let permit = loop {
        let place = ticket.place();
        if place != told && lines.send((json!({ "place": place }), None)).await.is_err() {
            return;
        }
        told = place;
        tokio::select! {
            permit = &mut turn => match permit {
                Ok(permit) => break permit,
                Err(_) => return,
            },
            _ = changes.changed() => {}
            () = lines.closed() => return,
            () = app.stop.cancelled() => return,
        }
    };
    drop(ticket);
    let last = match app.rooms.open_in(wanted, permit).await {
        Ok(session) => (json!(begun(session.ids()[0].clone())), Some(session)),
        Err(Refusal { code, message, .. }) => (json!({ "error": message, "code": code }), None),
    };
    // A session that comes with a line that nobody reads ends with it.
    let _ = lines.send(last).await;
}
