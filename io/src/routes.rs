//! Every route, in one table: the router is built from it, the guard asks it what is public, and the documentation prints it.

use axum::{
    Router,
    handler::Handler,
    http::StatusCode,
    middleware,
    routing::{self, MethodRouter},
};

use crate::{
    auth, guard, guard::Rejection, metrics, observe, page, recordings, server, server::App, sessions, upload,
};

/// One method of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// With `{id}` for what varies.
    pub path: &'static str,
    /// Answered without a token.
    pub public: bool,
    /// A file of the page.
    pub file: bool,
    /// What it is for, in a few words.
    pub about: &'static str,
}

struct Handled {
    route: Route,
    handler: MethodRouter<App>,
}

/// Whether a token is asked for.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Token,
    Public,
}
use For::{Public, Token};

/// All of them; nothing else is ever added to the router.
fn table() -> Vec<Handled> {
    let mut table = vec![
        get("/ws", Token, "the main session's WebSocket", server::upgrade),
        get("/ws/{id}", Token, "a session's WebSocket", server::upgrade_to),
        post("/api/clip", Token, "continue a clip in the main session", upload::clip),
        get("/api/sessions", Token, "all sessions", sessions::list),
        post("/api/sessions", Token, "begin a session", sessions::create),
        get("/api/sessions/{id}", Token, "a session", sessions::show),
        delete("/api/sessions/{id}", Token, "end a session", sessions::delete),
        post("/api/sessions/{id}/clip", Token, "continue a clip in a session", upload::clip_for),
        get("/api/sessions/{id}/blocks", Token, "the blocks that can be gone back to", sessions::past),
        get("/api/sessions/{id}/log", Token, "a session's event log", sessions::log),
        get("/api/sessions/{id}/snapshot", Token, "what was saved of a session last", sessions::saved),
        post("/api/sessions/{id}/snapshot", Token, "save a session", sessions::save),
        get("/api/recordings", Token, "films of sessions", recordings::list),
        get("/api/recordings/{name}", Token, "a film, or what computes it again", recordings::file),
        post("/api/ticket", Token, "a ticket that opens one WebSocket", auth::ticket),
        post("/api/signin", Token, "exchange the token for a cookie", auth::sign_in),
        delete("/api/signin", Token, "forget the cookie", auth::sign_out),
        get("/info", Token, "what is streamed, and where it stands", server::info),
        get("/metrics", Token, "counts and gauges for Prometheus", metrics::metrics),
        get("/healthz", Public, "whether the server runs", async || "ok\n"),
        get("/readyz", Public, "whether it takes viewers", server::ready),
    ];
    table.extend(page::files().map(|(path, content_type, body)| {
        let access = if page::PUBLIC_FILES.contains(&path) { Public } else { Token };
        let about = if path == "/" { "the page" } else { "a file of the page" };
        let Handled { route, handler } =
            get(path, access, about, async move || page::file(content_type, body));
        Handled { route: Route { file: path != "/", ..route }, handler }
    }));
    table
}

fn get<T: 'static>(
    path: &'static str,
    access: For,
    about: &'static str,
    handler: impl Handler<T, App>,
) -> Handled {
    handled("GET", path, access, about, routing::get(handler))
}

fn post<T: 'static>(
    path: &'static str,
    access: For,
    about: &'static str,
    handler: impl Handler<T, App>,
) -> Handled {
    handled("POST", path, access, about, routing::post(handler))
}

fn delete<T: 'static>(
    path: &'static str,
    access: For,
    about: &'static str,
    handler: impl Handler<T, App>,
) -> Handled {
    handled("DELETE", path, access, about, routing::delete(handler))
}

fn handled(
    method: &'static str,
    path: &'static str,
    access: For,
    about: &'static str,
    handler: MethodRouter<App>,
) -> Handled {
    Handled { route: Route { method, path, public: access == Public, file: false, about }, handler }
}

/// Every route that the server has, in the order of its documentation.
pub fn routes() -> Vec<Route> {
    table().into_iter().map(|Handled { route, .. }| route).collect()
}

/// The router of one server.
pub(crate) fn router(app: App) -> Router {
    let routes = table().into_iter();
    routes
        .fold(Router::new(), |router, Handled { route, handler }| router.route(route.path, handler))
        .fallback(async || Rejection::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here"))
        .layer(middleware::from_fn_with_state(app.gate.clone(), guard::check))
        .layer(middleware::from_fn_with_state(app.metrics.clone(), observe::observe))
        .with_state(app)
}
