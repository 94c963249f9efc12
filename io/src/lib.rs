//! The web side of a world: wire protocol, HTTP and WebSocket server, and the page it serves.
//!
//! Nothing here knows what a tensor or a video codec is. A world is whatever implements [`WorldSource`]: it takes
//! [`Control`]s, publishes [`Packet`]s and announces its [`State`] through a [`Hub`]. [`serve`] does the rest for
//! any number of viewers, and [`Client`] is the same protocol from the other end. `docs/protocol.md` gives the bytes.

mod api;
mod auth;
mod client;
mod error;
mod guard;
mod hub;
mod metrics;
mod observe;
mod page;
mod peer;
mod protocol;
mod readiness;
mod recordings;
mod routes;
mod server;
mod sessions;
mod socket;
mod source;
#[doc(hidden)]
pub mod testing;
mod tls;
mod upload;

pub use api::{Begun, begin_session, end_session};
pub use auth::Token;
pub use client::{Caller, Client, Event};
pub use error::Error;
pub use guard::Access;
pub use hub::{Delivery, Demand, Hub, HubStats, Viewer};
pub use ipnet::IpNet;
pub use protocol::{
    ClientMessage, FUTURES, Future, HEADER_LEN, Header, INJECT_HEADER, Inject, Kind, LabelInfo, MAX_INJECT,
    MAX_PACKET, Moments, Packet, Recording, Request, Sampling, SamplingInfo, ServerMessage, Size, State,
    Timings, VERSION, WindowInfo, WorldInfo,
};
pub use readiness::Readiness;
pub use routes::{Route, routes};
pub use server::{ServerConfig, serve, serve_sessions};
pub use sessions::MAIN;
pub use source::{
    Control, Fork, Opened, Outcome, PastBlock, Refusal, Reply, Session, Sessions, Wanted, WorldSource,
};
pub use tls::Tls;
