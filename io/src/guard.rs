//! Which requests are answered at all: the right Host, no other site's Origin, and the token where there is one.
//!
//! A page of any site can make its visitor's browser talk to 127.0.0.1, and a DNS name can be re-pointed there. The
//! Host allowlist stops the second, the Origin check the first. Requests without an Origin come from programs, not
//! from pages, and pass. The token is asked for by everything that the table of routes does not call public, what is not in it
//! included.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    Error,
    auth::{self, Auth, Token},
    observe, page,
    peer::Peer,
    readiness::Readiness,
    routes::{Route, routes},
    tls::Tls,
};

/// On every response. WebSockets to the page's own origin are within `'self'`; what MediaSource plays, and a video that
/// somebody chose to inject, has a `blob:` address, which only the page itself can make.
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

/// Who may connect, and under which names. The default suits a server that only this machine reaches.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Asked for by everything but the probes and the sign-in form. A server that other machines reach needs one.
    pub token: Option<Token>,
    /// Further names, as `Host` headers have them: `name` for the default port or the server's own, or `name:port`.
    pub hosts: Vec<String>,
    /// Further origins whose pages may open WebSockets and send requests, such as `https://example.org`.
    pub origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub proxies: Vec<IpNet>,
    /// Serves https:// and wss:// instead of http:// and ws://.
    pub tls: Option<Tls>,
}

impl Access {
    /// Checks what cannot be right, so that it is told before a model is loaded.
    ///
    /// # Errors
    /// [`Error::BadName`] for a host or an origin that no request could ever have.
    pub fn check(&self) -> Result<(), Error> {
        for host in &self.hosts {
            let authority = host.parse::<Authority>();
            if !authority.is_ok_and(|authority| !authority.as_str().contains('@')) {
                return Err(Error::BadName {
                    name: host.clone(),
                    expected: "a host name, with :PORT or without",
                });
            }
        }
        for origin in &self.origins {
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if !authority
                .is_some_and(|rest| rest.parse::<Authority>().is_ok_and(|authority| authority == rest))
            {
                return Err(Error::BadName {
                    name: origin.clone(),
                    expected: "http:// or https://, a host name and no path",
                });
            }
        }
        Ok(())
    }
}

/// What every request has to pass.
#[derive(Debug)]
pub(crate) struct Gate {
    names: Names,
    pub(crate) auth: Auth,
    pub(crate) proxies: Vec<IpNet>,
    readiness: Readiness,
    /// What is answered without a token.
    public: Vec<Route>,
}

impl Gate {
    /// # Errors
    /// [`Error::NotLoopback`] for an address that other machines reach and nobody needs a token for; [`Error::BadName`].
    pub(crate) fn new(address: SocketAddr, access: Access, readiness: Readiness) -> Result<Self, Error> {
        access.check()?;
        let Access { token, hosts, origins, proxies, .. } = access;
        if token.is_none() && !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        let names = Names::new(address, hosts, origins);
        let public = routes().into_iter().filter(|route| route.public).collect();
        Ok(Self { names, auth: Auth::new(token), proxies, readiness, public })
    }

    /// Whatever answers GET answers HEAD as well.
    fn is_public(&self, request: &Request) -> bool {
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let path = request.extensions().get::<MatchedPath>();
        path.is_some_and(|path| {
            self.public.iter().any(|route| (route.method, route.path) == (method.as_str(), path.as_str()))
        })
    }
}

/// The authorities (`host:port`) under which this server may be spoken to, and the origins that may.
#[derive(Debug)]
pub(crate) struct Names {
    own: Vec<String>,
    /// Named by whoever runs the server: a proxy serves them, encrypted or not.
    given: Vec<String>,
    origins: Vec<String>,
    /// Of a server that listens on all addresses: they may change, and a number is no name that could be re-pointed.
    numbers: Option<u16>,
}

impl Names {
    /// The loopback names with the bound port; the port may be left out where it is HTTP's own.
    pub(crate) fn new(address: SocketAddr, hosts: Vec<String>, origins: Vec<String>) -> Self {
        let (ip, port) = (address.ip(), address.port());
        let names = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter();
        let bound = (!ip.is_loopback() && !ip.is_unspecified()).then(|| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let with_port = |name: String| {
            let bare = matches!(port, 80 | 443).then(|| name.clone());
            [Some(format!("{name}:{port}")), bare].into_iter().flatten()
        };
        let own = names.chain(bound).flat_map(with_port).collect();
        let given = hosts.into_iter().flat_map(|name| {
            let portless = name.parse::<Authority>().is_ok_and(|name| name.port().is_none());
            let with_port = portless.then(|| format!("{name}:{port}"));
            [Some(name), with_port].into_iter().flatten()
        });
        Self { own, given: given.collect(), origins, numbers: ip.is_unspecified().then_some(port) }
    }

    pub(crate) fn host(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        host.is_some_and(|host| among(&self.own, host) || self.is_number(host) || among(&self.given, host))
    }

    fn is_number(&self, authority: &str) -> bool {
        self.numbers.is_some_and(|port| {
            let bare =
                matches!(port, 80 | 443) && authority.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            bare || authority.parse::<SocketAddr>().is_ok_and(|number| number.port() == port)
        })
    }

    pub(crate) fn origin(&self, headers: &HeaderMap, peer: Peer) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let scheme = if peer.secure { "https" } else { "http" };
        // Any number may be ours: the one that was asked is.
        let asked = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let is_asked = |authority: &str| asked.is_some_and(|host| host.eq_ignore_ascii_case(authority));
        let ours = origin.split_once("://").is_some_and(|(of, authority)| {
            let own = among(&self.own, authority) || (self.is_number(authority) && is_asked(authority));
            (of == scheme && own) || (matches!(of, "http" | "https") && among(&self.given, authority))
        });
        ours || among(&self.origins, origin)
    }
}

fn among(names: &[String], name: &str) -> bool {
    names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// Refuses strangers and puts the security headers on every response.
pub(crate) async fn check(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let changes_something = request.method() != Method::GET || request.uri().path().starts_with("/ws");
    let (headers, uri) = (request.headers(), request.uri());
    let direct = request.extensions().get::<Peer>().copied();
    let peer = direct.unwrap_or(Peer::new(IpAddr::from([0, 0, 0, 0]), false)).behind(&gate.proxies, headers);
    let mut response = if !gate.names.host(headers) {
        let names = gate.names.own.iter().chain(&gate.names.given).map(String::as_str).collect::<Vec<_>>();
        let message = format!("this server answers to {} only", names.join(", "));
        Rejection::new(StatusCode::FORBIDDEN, "host_not_allowed", message).into_response()
    } else if changes_something && !gate.names.origin(headers, peer) {
        let message = "requests from other sites are not allowed";
        Rejection::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response()
    } else if let Some(signed_in) = gate.auth.exchange(uri, peer) {
        signed_in
    } else if !gate.is_public(&request) && !gate.auth.admits(headers, uri) {
        match uri.path() {
            "/" if request.method() == Method::GET => {
                (StatusCode::UNAUTHORIZED, page::sign_in()).into_response()
            }
            _ => auth::unauthorized(),
        }
    } else if gate.readiness.is_withdrawn() && begins_something(&request) {
        let message = "the server is stopping";
        Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message).retry_after().into_response()
    } else {
        request.extensions_mut().insert(peer);
        next.run(request).await
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// A viewer or a session that would soon be ended again.
fn begins_something(request: &Request) -> bool {
    let path = request.uri().path();
    path.starts_with("/ws") || (request.method() == Method::POST && path == "/api/sessions")
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

/// A rejection's code, as an extension of its response.
#[derive(Clone, Debug)]
pub(crate) struct Code(pub(crate) String);

#[derive(Debug, Serialize)]
struct RejectionBody {
    error: String,
    code: String,
    request_id: String,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, code: impl Into<String>, error: impl Into<String>) -> Self {
        let request_id = observe::request_id();
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
        let RejectionBody { error, code, .. } = &self.body;
        let (status, detail) = (self.status.as_u16(), self.detail);
        if self.warn {
            tracing::warn!(status, code, detail, "refused: {error}");
        } else {
            tracing::info!(status, code, detail, "refused: {error}");
        }
        let code = Code(code.clone());
        let mut response = (self.status, Json(self.body)).into_response();
        response.extensions_mut().insert(code);
        if self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
