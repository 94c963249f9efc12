//! The page, embedded in the binary: plain files, no bundler, nothing fetched from elsewhere.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// Path and text of every file of `io/web/` that is named.
macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        [$((concat!("/", $name), include_str!(concat!("../web/", $name)))),*]
    };
}

/// All but `index.html`, which is `/`, and `signin.html`.
const FILES: [(&str, &str); 36] = embedded![
    "api.mjs",
    "app.mjs",
    "base.css",
    "chart.mjs",
    "charts.mjs",
    "connection.mjs",
    "controls.css",
    "dom.mjs",
    "fmp4.mjs",
    "futures.css",
    "futures.mjs",
    "glass.mjs",
    "history.mjs",
    "icon.svg",
    "inject.mjs",
    "moments.mjs",
    "mse.mjs",
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
    "signin.css",
    "signin.mjs",
    "stage.css",
    "status.mjs",
    "steer.mjs",
    "stream.mjs",
    "thumbnails.mjs",
    "timeline.mjs",
];

/// Files that are served without a token: what stands in the page's place until somebody signs in is no secret.
pub(crate) const PUBLIC_FILES: [&str; 3] = ["/icon.svg", "/signin.css", "/signin.mjs"];

/// Path, content type and text of all of them, the page itself included.
pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let page = ("/", include_str!("../web/index.html"));
    FILES.into_iter().chain([page]).map(|(path, text)| (path, content_type(path), text))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "mjs")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

pub(crate) fn file(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// The form that asks for the token.
pub(crate) fn sign_in() -> Response {
    file("text/html; charset=utf-8", include_str!("../web/signin.html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| format!("/{}", entry.unwrap().file_name().display()))
            .filter(|path| !path.ends_with(".html"))
            .collect();
        there.sort();
        assert_eq!(there, FILES.map(|(path, _)| path));
    }
}
