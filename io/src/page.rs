//! The page, embedded in the binary: plain files, no bundler, nothing fetched from elsewhere.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// Path, content type and bytes of every file.
const FILES: [(&str, &str, &str); 12] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("/app.mjs", "text/javascript; charset=utf-8", include_str!("../web/app.mjs")),
    ("/connection.mjs", "text/javascript; charset=utf-8", include_str!("../web/connection.mjs")),
    ("/controls.mjs", "text/javascript; charset=utf-8", include_str!("../web/controls.mjs")),
    ("/player.mjs", "text/javascript; charset=utf-8", include_str!("../web/player.mjs")),
    ("/playout.mjs", "text/javascript; charset=utf-8", include_str!("../web/playout.mjs")),
    ("/protocol.mjs", "text/javascript; charset=utf-8", include_str!("../web/protocol.mjs")),
    ("/rewind.mjs", "text/javascript; charset=utf-8", include_str!("../web/rewind.mjs")),
    ("/sessions.mjs", "text/javascript; charset=utf-8", include_str!("../web/sessions.mjs")),
    ("/timeline.mjs", "text/javascript; charset=utf-8", include_str!("../web/timeline.mjs")),
];

/// What stands in the page's place until somebody signs in. It and its parts are no secret, and neither is the icon.
const SIGN_IN: [(&str, &str, &str); 2] = [
    ("/signin.css", "text/css; charset=utf-8", include_str!("../web/signin.css")),
    ("/signin.mjs", "text/javascript; charset=utf-8", include_str!("../web/signin.mjs")),
];

/// Files that are served without a token.
pub(crate) const PUBLIC_FILES: [&str; 3] = ["/icon.svg", "/signin.css", "/signin.mjs"];

/// All of them.
pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    FILES.into_iter().chain(SIGN_IN)
}

pub(crate) fn file(content_type: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// The form that asks for the token.
pub(crate) fn sign_in() -> Response {
    file("text/html; charset=utf-8", include_str!("../web/signin.html"))
}
