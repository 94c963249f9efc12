//! `/metrics`: its numbers, and the rules that `promtool check metrics` has for names.

use std::collections::{BTreeMap, BTreeSet};

use acdit_io::{Kind, Request, ServerConfig, State, Timings};

use crate::harness::{Answer, Served, exchange, next_packet, packet};

async fn scrape(served: &Served) -> Answer {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", served.address);
    exchange(served.address, request.as_bytes(), false).await
}

fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn what_happens_is_counted() {
    let mut served = Served::start(ServerConfig::default()).await;
    let before = scrape(&served).await;
    assert!(before.head.contains("content-type: text/plain; version=0.0.4"), "{}", before.head);
    for (series, expected) in [
        ("acdit_viewers", 0.0),
        ("acdit_sessions", 1.0),
        ("acdit_sessions_waiting", 0.0),
        ("acdit_ready", 1.0),
        ("acdit_frames_published_total", 0.0),
        ("acdit_block_duration_seconds_count", 0.0),
        ("acdit_uploads_total{outcome=\"not_a_video\"}", 0.0),
        ("acdit_build_info{version=\"0.1.0\",protocol=\"1\"}", 1.0),
    ] {
        assert_eq!(value(&before.body, series), expected, "{series}");
    }
    assert!(value(&before.body, "process_resident_memory_bytes") > 1e6);

    let mut client = served.connect(Kind::H264).await;
    served.viewers(1, 0).await;
    served.hub.publish(&packet(0, true));
    next_packet(&mut client).await;
    let timings = Timings { denoise: 0.2, decode: 0.1, ..Timings::default() };
    // As the engine's states come: what else was announced stays.
    served.hub.amend(|state| *state = State { underruns: 2, failures: 1, timings, ..State::default() });
    served.hub.amend(|state| state.recording = None);
    let id = client.request(Request::Pause).await.unwrap();
    served.control().await.1.refused("no", "no");
    client.applied(id).await.unwrap_err();
    let address = served.address;
    let upload = format!(
        "POST /api/clip HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 4\r\n\r\ntext"
    );
    let answer = tokio::spawn(async move { exchange(address, upload.as_bytes(), false).await });
    served.control().await.1.refused("not_a_video", "text");
    assert_eq!(answer.await.unwrap().status, 415);

    let after = scrape(&served).await.body;
    for (series, expected) in [
        ("acdit_viewers", 1.0),
        ("acdit_frames_published_total", 1.0),
        ("acdit_frames_dropped_total", 0.0),
        ("acdit_underruns_total", 2.0),
        ("acdit_blocks_lost_total", 1.0),
        ("acdit_block_duration_seconds_count", 1.0),
        ("acdit_block_duration_seconds_sum", 0.3),
        ("acdit_block_duration_seconds_bucket{le=\"0.25\"}", 0.0),
        ("acdit_block_duration_seconds_bucket{le=\"0.5\"}", 1.0),
        ("acdit_controls_total{outcome=\"refused\"}", 1.0),
        ("acdit_uploads_total{outcome=\"not_a_video\"}", 1.0),
        ("acdit_http_requests_total{class=\"1xx\"}", 1.0),
        ("acdit_http_requests_total{class=\"2xx\"}", 1.0),
        ("acdit_http_requests_total{class=\"4xx\"}", 1.0),
    ] {
        assert_eq!(value(&after, series), expected, "{series}");
    }
}

#[tokio::test]
async fn alerts_and_the_documentation_name_series_that_there_are() {
    let served = Served::start(ServerConfig::default()).await;
    let text = scrape(&served).await.body;
    let mut named = 0;
    for file in ["deploy/prometheus/alerts.yaml", "docs/operations.md"] {
        let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
        let words = std::fs::read_to_string(path).unwrap();
        let words = words.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("acdit_") || word.starts_with("process_")) {
            assert!(text.contains(&format!("# TYPE {name} ")), "{file}: {name}");
            named += 1;
        }
    }
    assert!(named > 20);
}

/// A metric family as the text format gives it.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    series: Vec<String>,
}

/// What promtool would say of an exposition.
fn lint(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            families.entry(name.into()).or_default().help = help.into();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            let family = families.entry(name.into()).or_default();
            if !family.kind.is_empty() || !family.series.is_empty() {
                problems.push(format!("{name}: TYPE stands twice or after a sample"));
            }
            family.kind = kind.into();
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            if value.parse::<f64>().is_err() {
                problems.push(format!("{name}: {value} is no number"));
            }
            if !series.insert(name.to_owned()) {
                problems.push(format!("{name}: stands twice"));
            }
            let bare = name.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                let base = bare.strip_suffix(suffix)?;
                families.get(base).is_some_and(|family| family.kind == "histogram").then_some(base)
            });
            match families.get_mut(base.unwrap_or(bare)) {
                Some(family) => family.series.push(name.into()),
                None => problems.push(format!("{name}: no HELP and TYPE before it")),
            }
        }
    }
    for (name, Family { kind, help, series }) in &families {
        let mut say = |what: &str| problems.push(format!("{name}: {what}"));
        let words: Vec<&str> = name.split('_').collect();
        if help.is_empty() {
            say("no help text");
        }
        if series.is_empty() {
            say("no samples");
        }
        if (kind == "counter") != name.ends_with("_total") {
            say("counters end with _total, and nothing else does");
        }
        if ["_bucket", "_sum", "_count"].iter().any(|suffix| name.ends_with(suffix)) {
            say("ends like a part of a histogram");
        }
        if ["counter", "gauge", "histogram", "summary", "untyped"].iter().any(|kind| words.contains(kind)) {
            say("has its type in its name");
        }
        if name.contains(':') || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            say("is not in snake case");
        }
        let units = [
            "ms",
            "us",
            "ns",
            "sec",
            "secs",
            "min",
            "mins",
            "milliseconds",
            "microseconds",
            "minutes",
            "hours",
        ];
        let more = ["kb", "mb", "gb", "kilobytes", "megabytes", "percent", "s", "b"];
        if words.iter().any(|word| units.contains(word) || more.contains(word)) {
            say("is not in base units, or abbreviates one");
        }
        if let Some(at) = words.iter().position(|word| ["seconds", "bytes", "ratio"].contains(word)) {
            let after: Vec<_> = words[at + 1..].iter().filter(|word| **word != "total").collect();
            if !after.is_empty() {
                say("has its unit before its end");
            }
        }
        let le = series.iter().any(|series| series.contains("{le="));
        if le != (kind == "histogram") {
            say("le is a label of histograms");
        }
        if series.iter().any(|series| series.contains("session=") || series.contains("id=")) {
            say("names a session");
        }
    }
    problems
}

#[tokio::test]
async fn the_names_are_as_promtool_wants_them() {
    let served = Served::start(ServerConfig::default()).await;
    let text = scrape(&served).await.body;
    assert_eq!(lint(&text), Vec::<String>::new());
    assert!(text.ends_with('\n') && text.lines().count() > 50);
    for (wrong, words) in [
        ("# HELP a_x A.\n# TYPE a_x counter\na_x 1\n", "_total"),
        ("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n", "_total"),
        ("# HELP a_ms A.\n# TYPE a_ms gauge\na_ms 1\n", "base units"),
        ("# HELP a_seconds_x A.\n# TYPE a_seconds_x gauge\na_seconds_x 1\n", "unit before"),
        ("# TYPE a gauge\na 1\n", "help"),
        ("a 1\n", "no HELP"),
        ("# HELP a A.\n# TYPE a gauge\na 1\na 1\n", "twice"),
        ("# HELP aB A.\n# TYPE aB gauge\naB 1\n", "snake"),
        ("# HELP a_gauge A.\n# TYPE a_gauge gauge\na_gauge 1\n", "type in its name"),
        ("# HELP a A.\n# TYPE a gauge\na{session=\"x\"} 1\n", "names a session"),
    ] {
        assert!(lint(wrong).iter().any(|problem| problem.contains(words)), "{wrong}: {:?}", lint(wrong));
    }
}
