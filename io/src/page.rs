//! The page, embedded in the binary: plain files, no bundler, nothing fetched from elsewhere.

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

/// Path, content type and bytes of every file.
const FILES: [(&str, &str, &str); 14] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("/app.mjs", "text/javascript; charset=utf-8", include_str!("../web/app.mjs")),
    ("/connection.mjs", "text/javascript; charset=utf-8", include_str!("../web/connection.mjs")),
    ("/controls.mjs", "text/javascript; charset=utf-8", include_str!("../web/controls.mjs")),
    ("/fmp4.mjs", "text/javascript; charset=utf-8", include_str!("../web/fmp4.mjs")),
    ("/mse.mjs", "text/javascript; charset=utf-8", include_str!("../web/mse.mjs")),
    ("/player.mjs", "text/javascript; charset=utf-8", include_str!("../web/player.mjs")),
    ("/playout.mjs", "text/javascript; charset=utf-8", include_str!("../web/playout.mjs")),
    ("/protocol.mjs", "text/javascript; charset=utf-8", include_str!("../web/protocol.mjs")),
    ("/rewind.mjs", "text/javascript; charset=utf-8", include_str!("../web/rewind.mjs")),
    ("/sessions.mjs", "text/javascript; charset=utf-8", include_str!("../web/sessions.mjs")),
    ("/timeline.mjs", "text/javascript; charset=utf-8", include_str!("../web/timeline.mjs")),
];

/// One route per file.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, content_type, body)| {
        router.route(path, get(async move || file(content_type, body)))
    })
}

fn file(content_type: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
