//! The `acdit-world` command: it wires the crates together and holds nothing of its own.

mod args;
mod bench;
mod check;
mod completions;
mod config;
mod continuation;
mod convert;
mod doctor;
mod eval;
mod failure;
mod film;
mod generate;
mod output;
mod plot;
mod serve;
mod sessions;
mod signals;
mod source;
mod train;
mod train_vae;
mod verify;
mod world;

use std::process::ExitCode;

use acdit_runtime::device;

use crate::args::{Cli, Verb};
use crate::output::Output;

fn main() -> ExitCode {
    device::spin_briefly();
    device::keep_freed_memory();
    output::log_to_stderr();
    let (cli, layers) = match args::parse() {
        Ok(parsed) => parsed,
        Err(refused) => return refused.report(),
    };
    let output = Output { json: cli.json };
    failure::report(run(cli, &layers, output))
}

fn run(cli: Cli, layers: &config::Layers, output: Output) -> anyhow::Result<()> {
    match cli.verb {
        Verb::Serve(verb) => verb.run(output),
        Verb::Generate(verb) => verb.run(output),
        Verb::Continue(verb) => verb.run(output),
        Verb::Train(verb) => verb.run(output),
        Verb::TrainVae(verb) => verb.run(output),
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
