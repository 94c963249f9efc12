//! The server against real clients on real sockets, with a world that each test plays by hand.

mod exposure;
mod harness;
mod http;
mod sessions;
mod socket;
