//! `loadtest`: many viewers of one session, and many sessions with a viewer each.

use std::mem::take;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use acdit_io::{begin_session, end_session};
use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{interval_at, sleep_until};

use crate::cadence::{self, Cadence, Figures, Tally};
use crate::failure::Failed;
use crate::output::{self, Output};
use crate::watch::{Server, Stream, Viewer, connect, runtime, seconds};

#[derive(Debug, Args)]
#[command(after_help = "\
With --json there is a line for each second, and a summary as the last one.

Examples:
  acdit-world loadtest --viewers 64 --ramp 5 --seconds 30
  acdit-world loadtest --viewers 0 --sessions 6 --json   # six private worlds
  acdit-world loadtest --viewers 64 --stalled 1          # a further one stops reading")]
pub(crate) struct Loadtest {
    #[command(flatten)]
    stream: Stream,
    /// Viewers of this session
    #[arg(long, default_value_t = 16, value_name = "N")]
    viewers: usize,
    /// Private sessions to begin over HTTP beside it, each with its own viewer; they end with the test
    #[arg(long, default_value_t = 0, value_name = "N")]
    sessions: usize,
    /// Seconds over which all of them arrive
    #[arg(long, default_value = "1", value_parser = seconds)]
    ramp: Duration,
    /// Seconds that each watches
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Further viewers that connect first and never read
    #[arg(long, default_value_t = 0, value_name = "N")]
    stalled: usize,
}

/// What all viewers of the test share.
#[derive(Default)]
struct Crowd {
    viewers: AtomicUsize,
    sessions: AtomicUsize,
    /// What has come since the last line.
    tally: Mutex<Tally>,
}

/// A second of the test.
#[derive(Serialize)]
struct Second {
    r#type: &'static str,
    second: u64,
    /// Connected at its end.
    viewers: usize,
    sessions: usize,
    #[serde(flatten)]
    tally: cadence::Tallied,
}

#[derive(Serialize)]
struct Summary {
    r#type: &'static str,
    viewers: usize,
    sessions: usize,
    stalled: usize,
    /// Viewers that could not connect or were cut off, and sessions that could not begin; and why the first of them.
    failed: usize,
    failure: Option<String>,
    #[serde(flatten)]
    figures: Figures,
    /// Each viewer's own.
    each: Vec<Each>,
}

#[derive(Serialize)]
struct Each {
    /// The session that was begun for it.
    session: Option<String>,
    #[serde(flatten)]
    figures: Figures,
}

impl Loadtest {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Self { stream, viewers, sessions, ramp, seconds, stalled } = self;
        let server = stream.server()?;
        let all = viewers + sessions;
        ensure!(all > 0, "nobody to watch: expected --viewers or --sessions above 0");
        runtime()?.block_on(async {
            let mut idle = Vec::with_capacity(stalled);
            for _ in 0..stalled {
                idle.push(connect(&server).await?);
            }
            let crowd = Arc::new(Crowd::default());
            let start = Instant::now();
            let mut watching = JoinSet::new();
            for index in 0..all {
                let (server, crowd) = (server.clone(), crowd.clone());
                let arrive = start + ramp.mul_f64(index as f64 / all as f64);
                // The sessions are spread among the others.
                let own = (index + 1) * sessions / all > index * sessions / all;
                watching.spawn(async move {
                    sleep_until(arrive.into()).await;
                    match own {
                        true => in_session(&server, seconds, &crowd).await,
                        false => watch(&server, seconds, &crowd).await.map(|seen| (None, seen)),
                    }
                });
            }
            let bar = output::progress(all as u64, "viewers done");
            let (mut seen, mut failures) = (Vec::new(), Vec::new());
            let mut second = interval_at((start + SECOND).into(), SECOND);
            let mut count = 0;
            loop {
                tokio::select! {
                    watched = watching.join_next() => match watched {
                        None => break,
                        Some(watched) => {
                            bar.inc(1);
                            match watched? {
                                Ok(watched) => seen.push(watched),
                                Err(error) => failures.push(format!("{error:#}")),
                            }
                        }
                    },
                    _ = second.tick() => {
                        count += 1;
                        crowd.second(count, &bar, output)?;
                    }
                }
            }
            bar.finish_and_clear();
            drop(idle);
            let figures = cadence::figures(seen.iter().map(|(_, seen)| seen));
            let each = |(session, seen): &(Option<String>, Cadence)| Each {
                session: session.clone(),
                figures: seen.figures(),
            };
            let summary = Summary {
                r#type: "summary",
                viewers,
                sessions,
                stalled,
                failed: failures.len(),
                failure: failures.first().cloned(),
                figures,
                each: seen.iter().map(each).collect(),
            };
            let watched =
                format!("viewers      {} of {all}, {sessions} in sessions of their own", seen.len());
            output.print(&summary, || format!("{watched}\n{}", summary.figures.text()))?;
            match failures.first() {
                Some(failure) => {
                    let failed = failures.len();
                    Err(Failed(format!("{failed} of {all} viewers failed, the first: {failure}")).into())
                }
                None => Ok(()),
            }
        })
    }
}

const SECOND: Duration = Duration::from_secs(1);

impl Crowd {
    /// Says what came in a second.
    fn second(&self, second: u64, bar: &indicatif::ProgressBar, output: Output) -> anyhow::Result<()> {
        let tally = take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        let second = Second {
            r#type: "second",
            second,
            viewers: self.viewers.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
            tally: tally.total(),
        };
        bar.set_message(format!("viewers done, {} frames/s", second.tally.frames));
        if output.json { output.print(&second, String::new) } else { Ok(()) }
    }
}

/// One viewer.
async fn watch(server: &Server, seconds: Duration, crowd: &Crowd) -> anyhow::Result<Cadence> {
    let asked = Instant::now();
    let mut client = connect(server).await?;
    let mut viewer = Viewer::new(&client, asked);
    let end = Instant::now() + seconds;
    let _present = Present::among(&crowd.viewers);
    loop {
        tokio::select! {
            () = sleep_until(end.into()) => return Ok(viewer.seen),
            event = client.next() => {
                let arrival = viewer.see(&event?);
                crowd.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&arrival);
            }
        }
    }
}

/// The viewer of a session of its own.
async fn in_session(
    server: &Server,
    seconds: Duration,
    crowd: &Crowd,
) -> anyhow::Result<(Option<String>, Cadence)> {
    let Server { url, caller } = server;
    let begun = begin_session(caller, url, &json!({ "private": true, "unattended": true })).await;
    let begun = begun.with_context(|| format!("a session on {url}"))?;
    let present = Present::among(&crowd.sessions);
    let its_own = Server { url: begun.ws, caller: caller.clone() };
    let watched = watch(&its_own, seconds, crowd).await;
    drop(present);
    let ended = end_session(caller, url, &begun.session).await;
    let seen = watched?;
    ended.with_context(|| format!("the end of session {}", begun.session))?;
    Ok((Some(begun.session), seen))
}

/// Counted for as long as it is there.
struct Present<'a>(&'a AtomicUsize);

impl<'a> Present<'a> {
    fn among(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
