//! The page, embedded in the binary: plain files, no bundler, nothing fetched from elsewhere.

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

/// Path and text of every file of `io/web/` that is named.
macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$((concat!("/", $name), include_str!(concat!("../web/", $name)))),*]
    };
}

/// All but `index.html`, which is `/`.
const FILES: [(&str, &str); 31] = embedded![
    "api.mjs",
    "app.mjs",
    "base.css",
    "chart.mjs",
    "charts.mjs",
    "connection.mjs",
    "dom.mjs",
    "futures.css",
    "futures.mjs",
    "glass.mjs",
    "history.mjs",
    "icon.svg",
    "inject.mjs",
    "moments.mjs",
    "panel.css",
    "pixels.mjs",
    "place.mjs",
    "playback.mjs",
    "player.mjs",
    "playout.mjs",
    "protocol.mjs",
    "receipt.mjs",
    "recordings.mjs",
    "series.mjs",
    "sessions.mjs",
    "stage.css",
    "status.mjs",
    "steer.mjs",
    "stream.mjs",
    "thumbnails.mjs",
    "timeline.mjs",
];

/// One route per file, and one for the page itself.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = ("/", include_str!("../web/index.html"));
    FILES.into_iter().chain([page]).fold(Router::new(), |router, (path, text)| {
        router.route(path, get(async move || file(content_type(path), text)))
    })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "mjs")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
