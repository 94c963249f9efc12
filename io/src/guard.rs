//! Which requests are answered at all: the right Host, and no other site's Origin.
//!
//! A page of any site can make its visitor's browser talk to 127.0.0.1, and a DNS name can be re-pointed there. The
//! Host allowlist stops the second, the Origin check the first. Requests without an Origin come from programs, not
//! from pages, and pass.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// On every response. WebSockets to the page's own origin are within `'self'`; a video that somebody chose to inject is
/// a `blob:`, which only the page itself can make.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The authorities (`host:port`) under which this server may be spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Allowed(Arc<[String]>);

impl Allowed {
    /// The loopback names with the bound port; the port may be left out where it is HTTP's own.
    pub(crate) fn for_address(address: SocketAddr) -> Self {
        let port = address.port();
        let names = ["localhost", "127.0.0.1", "[::1]"];
        let bare = names.iter().filter(|_| port == 80).map(|name| (*name).to_owned());
        Self(names.iter().map(|name| format!("{name}:{port}")).chain(bare).collect())
    }

    fn host(&self, headers: &HeaderMap) -> bool {
        headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .is_some_and(|host| self.0.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)))
    }

    fn origin(&self, headers: &HeaderMap) -> bool {
        headers.get(header::ORIGIN).is_none_or(|origin| {
            let authority = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
            authority
                .is_some_and(|authority| self.0.iter().any(|allowed| allowed.eq_ignore_ascii_case(authority)))
        })
    }
}

/// Refuses strangers and puts the security headers on every response.
pub(crate) async fn check(State(allowed): State<Allowed>, request: Request, next: Next) -> Response {
    let changes_something = request.method() != Method::GET || request.uri().path().starts_with("/ws");
    let mut response = if !allowed.host(request.headers()) {
        let message = format!("this server answers to {} only", allowed.0.join(", "));
        Rejection::new(StatusCode::FORBIDDEN, "host_not_allowed", message).into_response()
    } else if changes_something && !allowed.origin(request.headers()) {
        let message = "requests from other sites are not allowed";
        Rejection::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response()
    } else {
        next.run(request).await
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// An HTTP request that is not done: a status and `{error, code, request_id}`.
#[derive(Debug)]
pub(crate) struct Rejection {
    status: StatusCode,
    body: RejectionBody,
    retry_after: bool,
    detail: String,
    /// Something here may be wrong, not only the request.
    warn: bool,
}

#[derive(Debug, Serialize)]
struct RejectionBody {
    error: String,
    code: String,
    request_id: String,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, code: impl Into<String>, error: impl Into<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let request_id = format!("r{:06}", NEXT.fetch_add(1, Ordering::Relaxed));
        let body = RejectionBody { error: error.into(), code: code.into(), request_id };
        Self { status, body, retry_after: false, detail: String::new(), warn: false }
    }

    /// The same request may work in a moment.
    pub(crate) fn retry_after(self) -> Self {
        Self { retry_after: true, ..self }
    }

    /// Words for the log alone, as a warning or for those who ask for more.
    pub(crate) fn because(self, detail: Option<String>, warn: bool) -> Self {
        Self { detail: detail.unwrap_or_default(), warn, ..self }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let RejectionBody { error, code, request_id } = &self.body;
        let (status, detail) = (self.status.as_u16(), self.detail);
        if self.warn {
            tracing::warn!(status, code, request_id, detail, "refused: {error}");
        } else {
            tracing::info!(status, code, request_id, detail, "refused: {error}");
        }
        let mut response = (self.status, Json(self.body)).into_response();
        if self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
