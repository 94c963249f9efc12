//! What went wrong, as one line and an exit status: 1 ran and failed, 2 bad input or environment.

use std::fmt;
use std::process::ExitCode;

use acdit_codec::Error as Codec;
use acdit_model::Error as Model;
use acdit_parallel::Error as Parallel;
use acdit_runtime::Error as Runtime;
use acdit_train::Error as Train;
use clap::error::ErrorKind;

const FAILED: u8 = 1;
const REFUSED: u8 = 2;

/// The verb ran and its outcome is bad: a tolerance, an interrupt.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failed(pub(crate) String);

/// Why nothing was run.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The command line is wrong, or asks for help.
    Clap(clap::Error),
    /// The environment or the configuration file is wrong.
    Config(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(message) => f.write_str(message),
            Self::Clap(error) => {
                let text = error.render().to_string();
                let before_usage = text.split("\n\nUsage:").next().unwrap_or_default();
                let words: Vec<&str> = before_usage.split_whitespace().collect();
                let line = words.join(" ").replace(" For more information, try '--help'.", "");
                f.write_str(line.strip_prefix("error: ").unwrap_or(&line))
            }
        }
    }
}

impl Refused {
    /// Prints help where that was asked for, else one line; gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        match &self {
            Self::Clap(error) if !error.use_stderr() => {
                // A reader that went away (`--help | head -1`) has what it wanted.
                let _ = error.print();
                ExitCode::SUCCESS
            }
            Self::Clap(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = error.print();
                ExitCode::from(REFUSED)
            }
            _ => {
                eprintln!("error: {self}");
                ExitCode::from(REFUSED)
            }
        }
    }
}

/// Prints an error and gives the exit status.
pub(crate) fn report(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {}", one_line(&error));
    ExitCode::from(if ran_and_failed(&error) { FAILED } else { REFUSED })
}

/// An error and its causes, but for those that it already tells. libtorch's messages go on with a backtrace.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.lines().next().unwrap_or_default();
        if !line.ends_with(cause) {
            line += if line.is_empty() { "" } else { ": " };
            line += cause;
        }
    }
    line
}

fn ran_and_failed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Failed>()
            || cause.downcast_ref().is_some_and(train)
            || cause.downcast_ref().is_some_and(runtime)
            || cause.downcast_ref().is_some_and(codec)
            || cause.downcast_ref().is_some_and(model)
            || cause.downcast_ref().is_some_and(parallel)
    })
}

/// Crates pass one another's errors through, and a passed-through error is no link of its own in the chain.
fn train(error: &Train) -> bool {
    match error {
        Train::Diverged { .. } | Train::Interrupted | Train::Torch(_) => true,
        Train::Runtime(error) => runtime(error),
        Train::Codec(error) => codec(error),
        Train::Model(error) => model(error),
        Train::Parallel(error) => parallel(error),
        _ => false,
    }
}

fn runtime(error: &Runtime) -> bool {
    match error {
        Runtime::Diverged { .. }
        | Runtime::Library { .. }
        | Runtime::Torch(_)
        | Runtime::Kernel { .. }
        | Runtime::Stopped => true,
        Runtime::Codec(error) => codec(error),
        Runtime::Model(error) => model(error),
        _ => false,
    }
}

fn codec(error: &Codec) -> bool {
    match error {
        Codec::NotANumber | Codec::Torch(_) => true,
        Codec::Weights(error) => model(error),
        _ => false,
    }
}

fn model(error: &Model) -> bool {
    matches!(error, Model::Torch(_))
}

fn parallel(error: &Parallel) -> bool {
    !matches!(error, Parallel::Environment(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_told_from_what_could_not_run() {
        let diverged = || Runtime::Diverged { block: 3 };
        assert!(ran_and_failed(&diverged().into()));
        assert!(ran_and_failed(&Train::Runtime(diverged()).into()));
        assert!(ran_and_failed(
            &anyhow::Error::from(Train::Diverged { step: 1, reason: "x".into(), last_good: None })
                .context("x")
        ));
        assert!(ran_and_failed(&Runtime::Codec(Codec::NotANumber).into()));
        assert!(ran_and_failed(&Failed("tolerance".into()).into()));
        assert!(!ran_and_failed(&Codec::NoFrames.into()));
        assert!(!ran_and_failed(&Runtime::Input("label".into()).into()));
        assert!(!ran_and_failed(&anyhow::anyhow!("port in use")));
    }

    #[test]
    fn causes_are_told_once() {
        let missing = || std::io::Error::other("no such file");
        let told = Model::io("a.json", missing());
        assert_eq!(one_line(&told.into()), "a.json: no such file");
        let error = anyhow::Error::from(missing()).context("reading a.json");
        assert_eq!(one_line(&error), "reading a.json: no such file");
        assert_eq!(one_line(&anyhow::anyhow!("bad tensor\nframe 0x7f")), "bad tensor");
    }

    #[test]
    fn claps_words_fit_one_line() {
        use clap::CommandFactory as _;
        let refused = |words: &[&str]| {
            let error = crate::args::Cli::command().try_get_matches_from(words).unwrap_err();
            Refused::Clap(error).to_string()
        };
        let text = refused(&["acdit-world", "generate", "--frames", "x", "--out", "a.mp4"]);
        assert_eq!(text, "invalid value 'x' for '--frames <N>': invalid digit found in string");
        let text = refused(&["acdit-world", "generate", "--frames", "8"]);
        assert_eq!(text, "the following required arguments were not provided: --out <FILE>");
        let text = refused(&["acdit-world", "serve", "--prot", "1"]);
        assert_eq!(text, "unexpected argument '--prot' found tip: a similar argument exists: '--port'");
    }
}
