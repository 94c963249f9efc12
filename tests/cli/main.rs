//! The command as people and scripts meet it: the real binary, its exit status, its words, and the files that it leaves.

#![cfg(feature = "video")]

mod branching;
mod configuration;
mod deploying;
mod encoding;
mod exposing;
mod harness;
mod judging;
mod making;
#[path = "../old_kernel/mod.rs"]
mod old_kernel;
mod publishing;
mod recording;
mod refusals;
mod serving;
mod stopping;
mod training;
mod uploading;
mod watching;
