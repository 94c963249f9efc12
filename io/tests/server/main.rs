//! The server against real clients on real sockets, with a world that each test plays by hand.

mod clips;
mod contract;
mod encrypted;
mod exposure;
mod futures;
mod harness;
mod http;
mod metrics;
mod recordings;
mod schema;
mod sessions;
mod socket;
