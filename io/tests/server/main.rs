//! The server against real clients on real sockets, with a world that each test plays by hand.

mod clips;
mod futures;
mod harness;
mod http;
mod recordings;
mod sessions;
mod socket;
