//! What `/metrics` tells: numbers over all sessions, in Prometheus' text format.
//!
//! No label names a session: sessions come and go, and each would leave a series behind for ever. Counters are kept here and not
//! summed over the sessions that are there, so that none ever goes back when one ends.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use axum::{
    extract::State as Shared,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    protocol::{State, VERSION},
    server::App,
    sessions::Census,
};

/// Upper bounds of the histogram of block times, in seconds.
const BOUNDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Outcomes of uploads that are told apart; a world's own codes are one more, `other`.
const OUTCOMES: [&str; 14] = [
    "accepted",
    "bad_frames",
    "busy",
    "codec_not_accepted",
    "decoder_failed",
    "empty",
    "incomplete",
    "no_pictures",
    "not_a_video",
    "other",
    "too_large",
    "too_slow",
    "unavailable",
    "uploads_refused",
];

/// Status classes of answers, 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts since the server began.
#[derive(Debug)]
pub(crate) struct Metrics {
    began: SystemTime,
    published: AtomicU64,
    dropped: AtomicU64,
    underruns: AtomicU64,
    lost: AtomicU64,
    blocks: Histogram,
    applied: AtomicU64,
    refused: AtomicU64,
    failed_sessions: AtomicU64,
    answers: [AtomicU64; CLASSES.len()],
    uploads: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            began: SystemTime::now(),
            published: AtomicU64::default(),
            dropped: AtomicU64::default(),
            underruns: AtomicU64::default(),
            lost: AtomicU64::default(),
            blocks: Histogram::default(),
            applied: AtomicU64::default(),
            refused: AtomicU64::default(),
            failed_sessions: AtomicU64::default(),
            answers: Default::default(),
            uploads: Mutex::new(OUTCOMES.map(|outcome| (outcome, 0)).into()),
        }
    }
}

impl Metrics {
    /// A packet was published, and so many were dropped over it.
    pub(crate) fn published(&self, dropped: u64) {
        self.published.fetch_add(1, Relaxed);
        self.dropped.fetch_add(dropped, Relaxed);
    }

    /// A session went on. Timings are a block's own: other ones mean another block.
    pub(crate) fn moved(&self, from: &State, to: &State) {
        self.underruns.fetch_add(to.underruns.saturating_sub(from.underruns), Relaxed);
        self.lost.fetch_add(to.failures.saturating_sub(from.failures), Relaxed);
        if from.timings != to.timings {
            let timings = to.timings;
            self.blocks.observe(timings.denoise + timings.context + timings.decode + timings.encode);
        }
    }

    /// A viewer's control was answered by the world.
    pub(crate) fn control(&self, applied: bool) {
        if applied { &self.applied } else { &self.refused }.fetch_add(1, Relaxed);
    }

    /// The world could not make a session.
    pub(crate) fn session_failed(&self) {
        self.failed_sessions.fetch_add(1, Relaxed);
    }

    /// A request was answered.
    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(count) = self.answers.get(class) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// A clip was taken, or refused for the reason that a code names.
    pub(crate) fn upload(&self, outcome: &str) {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let known = OUTCOMES.into_iter().find(|known| *known == outcome).unwrap_or("other");
        *uploads.entry(known).or_default() += 1;
    }

    fn render(&self, now: &Now) -> String {
        let mut page = Page::default();
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        page.counter(
            "acdit_frames_published_total",
            "Frames that sessions published.",
            count(&self.published),
        );
        page.counter(
            "acdit_frames_dropped_total",
            "Frames dropped from slow viewers' queues.",
            count(&self.dropped),
        );
        page.histogram("acdit_block_duration_seconds", "Time that one block took, all stages.", &self.blocks);
        page.counter(
            "acdit_underruns_total",
            "Blocks that came later than they were due.",
            count(&self.underruns),
        );
        page.counter(
            "acdit_blocks_lost_total",
            "Blocks that were lost since something failed on their way.",
            count(&self.lost),
        );
        page.family("acdit_controls_total", "counter", "Viewers' controls, by the world's answer.");
        page.sample("acdit_controls_total", Some(("outcome", "applied")), count(&self.applied));
        page.sample("acdit_controls_total", Some(("outcome", "refused")), count(&self.refused));
        page.counter(
            "acdit_session_failures_total",
            "Sessions that could not be made.",
            count(&self.failed_sessions),
        );
        page.family("acdit_uploads_total", "counter", "Uploaded clips, by what became of them.");
        for (outcome, uploads) in &*self.uploads.lock().unwrap_or_else(PoisonError::into_inner) {
            page.sample("acdit_uploads_total", Some(("outcome", outcome)), uploads);
        }
        page.family("acdit_http_requests_total", "counter", "Answered HTTP requests, by class of status.");
        for (class, answers) in CLASSES.iter().zip(&self.answers) {
            page.sample("acdit_http_requests_total", Some(("class", class)), count(answers));
        }
        let Census { sessions, viewers, waiting } = now.census;
        page.gauge("acdit_sessions", "Sessions, the main one included.", sessions);
        page.gauge("acdit_sessions_limit", "Most sessions at a time.", now.most_sessions);
        page.gauge("acdit_sessions_waiting", "Requests that wait for a session's place.", waiting);
        page.gauge("acdit_viewers", "Viewers of all sessions.", viewers);
        page.gauge("acdit_viewers_limit", "Most viewers at a time.", now.most_viewers);
        page.gauge("acdit_uploads_in_progress", "Clips that are being taken now.", now.uploads);
        page.gauge(
            "acdit_ready",
            "1 while new viewers are taken, 0 from the request to stop on.",
            u8::from(now.ready),
        );
        page.family(
            "acdit_build_info",
            "gauge",
            "1, labelled with the version of the server and of its protocol.",
        );
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(page.0, "acdit_build_info{{version=\"{version}\",protocol=\"{VERSION}\"}} 1");
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        page.gauge(
            "process_start_time_seconds",
            "When the server began, in seconds since 1970.",
            began.as_secs_f64(),
        );
        if let Some(bytes) = now.resident_bytes {
            page.gauge("process_resident_memory_bytes", "Memory that the process holds.", bytes);
        }
        if let Some(open) = now.open_files {
            page.gauge("process_open_fds", "Open file descriptors.", open);
        }
        page.0
    }
}

impl Histogram {
    fn observe(&self, seconds: f64) {
        // Beyond the last bound, only the count knows of it.
        if let Some(at) = BOUNDS.iter().position(|&bound| seconds <= bound) {
            self.buckets[at].fetch_add(1, Relaxed);
        }
        self.microseconds.fetch_add((seconds.max(0.0) * 1e6) as u64, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }
}

/// What is read when somebody asks.
#[derive(Debug)]
struct Now {
    census: Census,
    most_sessions: usize,
    most_viewers: usize,
    uploads: usize,
    ready: bool,
    resident_bytes: Option<u64>,
    open_files: Option<usize>,
}

/// The exposition as it is written. Writing to a string cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, label: Option<(&str, &str)>, value: impl Display) {
        let _ = match label {
            None => writeln!(self.0, "{name} {value}"),
            Some((label, of)) => writeln!(self.0, "{name}{{{label}=\"{of}\"}} {value}"),
        };
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, None, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, None, value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut up_to = 0;
        for (bound, bucket_count) in BOUNDS.iter().zip(&histogram.buckets) {
            up_to += bucket_count.load(Relaxed);
            self.sample(&bucket, Some(("le", &bound.to_string())), up_to);
        }
        // A block may be counted between two reads: the last bucket is never below the one before it.
        let count = histogram.count.load(Relaxed).max(up_to);
        self.sample(&bucket, Some(("le", "+Inf")), count);
        self.sample(&format!("{name}_sum"), None, histogram.microseconds.load(Relaxed) as f64 / 1e6);
        self.sample(&format!("{name}_count"), None, count);
    }
}

/// Answers a scrape.
pub(crate) async fn metrics(Shared(app): Shared<App>) -> Response {
    let now = Now {
        census: app.rooms.census(),
        most_sessions: app.config.max_sessions + 1,
        most_viewers: app.config.max_viewers,
        uploads: app.config.max_uploads - app.uploads.available_permits(),
        ready: app.is_ready(),
        resident_bytes: resident_bytes(),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.render(&now)).into_response()
}

/// `None` where there is no Linux.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(kilobytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Timings;

    #[test]
    fn blocks_are_counted_once_and_fall_into_their_buckets() {
        let metrics = Metrics::default();
        let state = |denoise: f64, underruns: u64| State {
            underruns,
            timings: Timings { denoise, ..Timings::default() },
            ..State::default()
        };
        let states =
            [state(0.0, 0), state(0.2, 0), state(0.2, 0), state(0.3, 2), state(0.25, 2), state(60.0, 3)];
        for step in states.windows(2) {
            metrics.moved(&step[0], &step[1]);
        }
        let mut page = Page::default();
        page.histogram("x", "h.", &metrics.blocks);
        let value = |line: &str| {
            let found = page.0.lines().find_map(|of| of.strip_prefix(line)?.strip_prefix(' '));
            found.unwrap_or_else(|| panic!("{line} in {}", page.0)).to_owned()
        };
        assert_eq!(value("x_bucket{le=\"0.1\"}"), "0");
        assert_eq!(value("x_bucket{le=\"0.25\"}"), "2");
        assert_eq!(value("x_bucket{le=\"10\"}"), "3");
        assert_eq!(value("x_bucket{le=\"+Inf\"}"), "4");
        assert_eq!((value("x_sum").as_str(), value("x_count").as_str()), ("60.75", "4"));
        assert_eq!(metrics.underruns.load(Relaxed), 3);
    }
}
