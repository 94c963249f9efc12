//! The `acdit-world` command: it wires the crates together and holds nothing of its own.

mod args;
mod bench;
mod cadence;
mod check;
mod completions;
mod config;
mod continuation;
mod convert;
mod data;
#[cfg(feature = "video")]
mod decode_upload;
mod doctor;
mod drain;
mod encode;
mod eval;
mod exposure;
mod failure;
mod film;
mod generate;
mod glass;
mod loadtest;
mod output;
mod picture;
mod plot;
mod publish;
mod recorder;
mod recording;
mod replay;
mod serve;
mod sessions;
mod sidecar;
mod signals;
mod source;
mod steering;
mod train;
mod train_vae;
mod uploads;
mod verify;
mod watch;
mod world;

use std::process::ExitCode;

use acdit_runtime::device;

use crate::args::{Cli, Verb};
use crate::output::Output;

fn main() -> ExitCode {
    // Before all else: this process is to hold as little as possible when it meets a stranger's clip.
    #[cfg(feature = "video")]
    if let Some(words) = decode_upload::asked() {
        return decode_upload::run(words);
    }
    device::spin_briefly();
    device::keep_freed_memory();
    let (cli, layers) = match args::parse() {
        Ok(parsed) => parsed,
        Err(refused) => return refused.report(),
    };
    output::log_to_stderr(cli.log_format);
    let output = Output { json: cli.json };
    failure::report(run(cli, &layers, output))
}

fn run(cli: Cli, layers: &config::Layers, output: Output) -> anyhow::Result<()> {
    match cli.verb {
        Verb::Serve(verb) => verb.run(output),
        Verb::Watch(verb) => verb.run(output),
        Verb::Loadtest(verb) => verb.run(output),
        Verb::Publish(verb) => verb.run(output),
        Verb::Generate(verb) => verb.run(output),
        Verb::Continue(verb) => verb.run(output),
        Verb::Replay(verb) => verb.run(output),
        Verb::Train(verb) => verb.run(output),
        Verb::TrainVae(verb) => verb.run(output),
        Verb::Encode(verb) => verb.run(output),
        Verb::Convert(verb) => verb.run(output),
        Verb::Verify(verb) => verb.run(output),
        Verb::Doctor => doctor::run(output),
        Verb::Bench(verb) => verb.run(output),
        Verb::Eval(verb) => verb.run(output),
        Verb::Plot(verb) => verb.run(output),
        Verb::Config(verb) => verb.run(layers, output),
        Verb::Completions(verb) => verb.run(),
    }
}
