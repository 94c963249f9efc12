//! Who is let in: one token, and what is handed out in exchange for it.
//!
//! Programs send the token itself as a bearer. Browsers cannot do that for a page or a WebSocket, so they trade it once for a
//! cookie that no script reads and no other site sends. Whoever can neither set headers nor keep cookies gets a ticket: it opens
//! one WebSocket, soon. Nothing here keeps the token: only what is needed to recognise it, so that it cannot be printed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json,
    extract::{Extension, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::{Error, guard::Rejection, peer::Peer, server::App};

/// Fewer characters can be guessed.
const SHORTEST: usize = 16;

/// Far below what a request's headers may hold.
const LONGEST: usize = 512;

/// How long a browser stays signed in. It is signed out earlier by another token.
const SIGNED_IN: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a ticket may be used: the time between asking for it and opening a WebSocket.
const TICKET_LASTS: Duration = Duration::from_secs(30);

/// Tickets that were not used yet; one more is refused as `busy`.
const OPEN_TICKETS: usize = 1024;

/// The secret that lets a caller in. It can be recognised, not read back.
#[derive(Clone)]
pub struct Token {
    digest: blake3::Hash,
    /// Signs cookies, so that they outlive a restart and count at every replica.
    cookie_key: [u8; 32],
    cookie_name: String,
}

impl Token {
    /// Takes a token: 16 to 512 letters, digits and `-._~+/=`, as bearer tokens are written.
    ///
    /// # Errors
    /// [`Error::BadToken`], which does not repeat it.
    pub fn new(text: &str) -> Result<Self, Error> {
        if !(SHORTEST..=LONGEST).contains(&text.len()) {
            return Err(Error::BadToken(format!(
                "expected {SHORTEST} to {LONGEST} characters, got {}",
                text.len()
            )));
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
            return Err(Error::BadToken("expected letters, digits and -._~+/= only".to_owned()));
        }
        let cookie_key = blake3::derive_key("acdit-world 2026 cookie of one who signed in", text.as_bytes());
        // Two servers on one host share its cookies, whatever their ports: each token has a name of its own.
        let name = blake3::derive_key("acdit-world 2026 name of the cookie", text.as_bytes());
        let cookie_name = format!("acdit_{:02x}{:02x}{:02x}{:02x}", name[0], name[1], name[2], name[3]);
        Ok(Self { digest: blake3::hash(text.as_bytes()), cookie_key, cookie_name })
    }

    /// Whether `text` is the token. Digests are compared, in constant time: nothing is learnt of how much of it was right.
    fn is(&self, text: &[u8]) -> bool {
        blake3::hash(text) == self.digest
    }

    fn cookie(&self, secure: bool, now: SystemTime) -> HeaderValue {
        let until = seconds(now) + SIGNED_IN.as_secs();
        let value = format!("{until}.{}", self.signature(until));
        self.set_cookie(&value, SIGNED_IN, secure)
    }

    fn set_cookie(&self, value: &str, lasts: Duration, secure: bool) -> HeaderValue {
        let (name, lasts) = (&self.cookie_name, lasts.as_secs());
        let secure = if secure { "; Secure" } else { "" };
        let text = format!("{name}={value}; Max-Age={lasts}; Path=/; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::from_str(&text).expect("names, digits and hexadecimal digits are header text")
    }

    fn signature(&self, until: u64) -> blake3::Hash {
        blake3::keyed_hash(&self.cookie_key, until.to_string().as_bytes())
    }

    fn is_cookie(&self, value: &str, now: SystemTime) -> bool {
        let Some((until, signature)) = value.split_once('.') else { return false };
        let (Ok(until), Ok(signature)) = (until.parse::<u64>(), blake3::Hash::from_hex(signature)) else {
            return false;
        };
        self.signature(until) == signature && seconds(now) < until
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Whole seconds since 1970; a clock before that lets nobody stay signed in.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(u64::MAX / 2, |since| since.as_secs())
}

/// What tells those who may from those who may not.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// Without one, everybody may.
    token: Option<Token>,
    tickets: Tickets,
}

impl Auth {
    pub(crate) fn new(token: Option<Token>) -> Self {
        Self { token, tickets: Tickets::default() }
    }

    /// Whether a request may do what the public may not.
    pub(crate) fn admits(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let Some(token) = &self.token else { return true };
        bearer(headers).is_some_and(|text| token.is(text.as_bytes()))
            || cookies(headers, &token.cookie_name).any(|value| token.is_cookie(value, SystemTime::now()))
            || (opens_websocket(uri)
                && query(uri, "ticket").is_some_and(|ticket| self.tickets.redeem(ticket)))
    }

    /// What `/?token=…` is answered with where that is the token: the same page without it, and a cookie. The address bar, the
    /// history and a shared link then hold no secret.
    pub(crate) fn exchange(&self, uri: &Uri, peer: Peer) -> Option<Response> {
        let token = self.token.as_ref()?;
        let presented: Vec<u8> = percent_decode_str(query(uri, "token")?).collect();
        if uri.path() != "/" || !token.is(&presented) {
            return None;
        }
        let others = parameters(uri).filter(|(name, _)| *name != "token");
        let rest: Vec<String> = others.map(|(name, value)| format!("{name}={value}")).collect();
        let place = if rest.is_empty() { "/".to_owned() } else { format!("/?{}", rest.join("&")) };
        let place = HeaderValue::from_str(&place).ok()?;
        let cookie = token.cookie(peer.secure, SystemTime::now());
        Some(
            (StatusCode::SEE_OTHER, [(header::LOCATION, place), (header::SET_COOKIE, cookie)])
                .into_response(),
        )
    }
}

/// Exchanges the token for a cookie: what the sign-in form asks for. The guard has seen the token.
pub(crate) async fn sign_in(State(app): State<App>, Extension(peer): Extension<Peer>) -> Response {
    cookie_for(&app, |token| token.cookie(peer.secure, SystemTime::now()))
}

/// Forgets the cookie.
pub(crate) async fn sign_out(State(app): State<App>, Extension(peer): Extension<Peer>) -> Response {
    cookie_for(&app, |token| token.set_cookie("", Duration::ZERO, peer.secure))
}

fn cookie_for(app: &App, cookie: impl FnOnce(&Token) -> HeaderValue) -> Response {
    let header = app.gate.auth.token.as_ref().map(|token| [(header::SET_COOKIE, cookie(token))]);
    match header {
        Some(header) => (StatusCode::NO_CONTENT, header).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// What `POST /api/ticket` answers with.
#[derive(Debug, Serialize)]
pub(crate) struct Ticket {
    ticket: String,
    /// In seconds.
    expires_in: u64,
}

/// Hands out a ticket.
pub(crate) async fn ticket(State(app): State<App>) -> Result<(StatusCode, Json<Ticket>), Rejection> {
    let busy = || {
        let message = "too many tickets are waiting to be used";
        Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).retry_after()
    };
    let ticket = app.gate.auth.tickets.issue(Instant::now()).ok_or_else(busy)?;
    Ok((StatusCode::CREATED, Json(Ticket { ticket, expires_in: TICKET_LASTS.as_secs() })))
}

/// Tickets that were handed out, by their hash, so that looking one up tells nothing by the time it takes.
#[derive(Debug, Default)]
struct Tickets(Mutex<HashMap<[u8; 32], Instant>>);

impl Tickets {
    fn issue(&self, now: Instant) -> Option<String> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, until| *until > now);
        if open.len() >= OPEN_TICKETS {
            return None;
        }
        let ticket = format!("{:032x}", rand::random::<u128>());
        open.insert(*blake3::hash(ticket.as_bytes()).as_bytes(), now + TICKET_LASTS);
        Some(ticket)
    }

    /// Takes a ticket back: it lets in once.
    fn redeem(&self, ticket: &str) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = open.remove(blake3::hash(ticket.as_bytes()).as_bytes());
        until.is_some_and(|until| until > Instant::now())
    }
}

/// How a request without a right token is answered.
pub(crate) fn unauthorized() -> Response {
    let message = "a token is needed: Authorization: Bearer TOKEN, or /?token=TOKEN in a browser";
    let mut response = Rejection::new(StatusCode::UNAUTHORIZED, "token_needed", message).into_response();
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"acdit-world\""));
    response
}

fn opens_websocket(uri: &Uri) -> bool {
    uri.path() == "/ws" || uri.path().starts_with("/ws/")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(of, _)| *of == name).map(|(_, value)| value)
}

fn parameters(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A parameter of the query, as it is written there.
fn query<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    parameters(uri).find(|(of, _)| *of == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a-token/that+is=long";

    fn value(cookie: &HeaderValue) -> String {
        let (pair, _) = cookie.to_str().unwrap().split_once(';').unwrap();
        pair.split_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn a_token_is_recognised_and_never_printed() {
        let token = Token::new(TEXT).unwrap();
        assert!(token.is(TEXT.as_bytes()));
        for other in ["", "a-token/that+is=lonh", "a-token/that+is=longer", "A-token/that+is=long"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
        let too_long = "x".repeat(LONGEST + 1);
        for bad in ["short", "with a space in it", "umlaut-ü-in-there", "line\nbreak-in-there", &too_long] {
            let error = Token::new(bad).unwrap_err().to_string();
            assert!(error.contains("expected") && !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn a_cookie_is_good_for_a_week_and_for_its_token() {
        let (token, other) = (Token::new(TEXT).unwrap(), Token::new("quite-another-token").unwrap());
        let now = SystemTime::now();
        let cookie = token.cookie(true, now);
        let text = cookie.to_str().unwrap();
        assert!(text.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{text}");
        assert!(!text.contains(TEXT));
        let value = value(&cookie);
        assert!(token.is_cookie(&value, now) && !other.is_cookie(&value, now));
        assert!(token.is_cookie(&value, now + SIGNED_IN - Duration::from_secs(2)));
        assert!(!token.is_cookie(&value, now + SIGNED_IN + Duration::from_secs(2)));
        let (until, signature) = value.split_once('.').unwrap();
        let longer = format!("{}.{signature}", until.parse::<u64>().unwrap() + 1);
        for forged in [longer.as_str(), "", ".", "1.2", until, &format!("{until}.")] {
            assert!(!token.is_cookie(forged, now), "{forged}");
        }
        assert_ne!(token.cookie_name, other.cookie_name);
        // A replica with the same token takes it, too.
        assert!(Token::new(TEXT).unwrap().is_cookie(&value, now));
    }

    #[test]
    fn a_ticket_lets_in_once_and_soon() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let ticket = tickets.issue(now).unwrap();
        assert!(tickets.redeem(&ticket) && !tickets.redeem(&ticket) && !tickets.redeem("none"));
        if let Some(long_ago) = now.checked_sub(TICKET_LASTS) {
            let late = tickets.issue(long_ago).unwrap();
            assert!(!tickets.redeem(&late));
        }
        for _ in 0..OPEN_TICKETS {
            tickets.issue(now).unwrap();
        }
        assert_eq!(tickets.issue(now), None);
        assert!(tickets.issue(now + TICKET_LASTS).is_some(), "those that nobody used make room");
    }

    #[test]
    fn only_websockets_take_tickets_and_only_the_page_takes_a_token_in_its_address() {
        let auth = Auth::new(Some(Token::new(TEXT).unwrap()));
        let peer = Peer { ip: "127.0.0.1".parse().unwrap(), secure: false };
        let none = HeaderMap::new();
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let ticket = auth.tickets.issue(Instant::now()).unwrap();
        assert!(!auth.admits(&none, &uri(&format!("/info?ticket={ticket}"))));
        assert!(!auth.admits(&none, &uri(&format!("/wsx?ticket={ticket}"))));
        assert!(auth.admits(&none, &uri(&format!("/ws/abc?kind=jpeg&ticket={ticket}"))));
        assert!(!auth.admits(&none, &uri(&format!("/ws/abc?ticket={ticket}"))));

        let answer =
            auth.exchange(&uri("/?session=a&token=a-token%2Fthat%2Bis%3Dlong&kind=jpeg"), peer).unwrap();
        assert_eq!(answer.headers()[header::LOCATION], "/?session=a&kind=jpeg");
        assert!(!answer.headers()[header::SET_COOKIE].to_str().unwrap().contains("Secure"));
        assert!(auth.exchange(&uri("/?token=a-token/that+is=long"), peer).is_some(), "as it is written");
        for other in ["/", "/?token=", "/?token=wrong", "/info?token=a-token/that+is=long"] {
            assert!(auth.exchange(&uri(other), peer).is_none(), "{other}");
        }

        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("bearer {TEXT}").parse().unwrap());
        assert!(auth.admits(&headers, &uri("/info")));
        headers.insert(header::AUTHORIZATION, format!("Basic {TEXT}").parse().unwrap());
        assert!(!auth.admits(&headers, &uri("/info")));
        assert!(Auth::default().admits(&none, &uri("/info")), "without a token everybody may");
    }
}
