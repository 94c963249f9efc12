//! `completions`: a script that teaches a shell the verbs and flags.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args::Cli;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acdit-world completions bash > ~/.local/share/bash-completion/completions/acdit-world
  acdit-world completions fish > ~/.config/fish/completions/acdit-world.fish
  acdit-world completions zsh > ~/.zfunc/_acdit-world")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "acdit-world", &mut script);
        std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
        Ok(())
    }
}
