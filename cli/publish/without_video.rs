//! A build without FFmpeg publishes nothing.

use acdit_codec::Error;
use acdit_io::{Hub, WorldInfo};

use super::Published;

/// There is none.
pub(crate) enum Target {}

impl Target {
    pub(super) fn parse(_text: &str) -> Result<Self, Error> {
        Err(Error::Video("this build cannot publish (feature `video`)".to_owned()))
    }
}

/// There is none.
pub(crate) enum Publisher {}

impl Publisher {
    pub(super) fn start(
        target: Target,
        _hub: Hub,
        _info: &WorldInfo,
        _ask: Box<dyn Fn() + Send>,
    ) -> std::io::Result<Self> {
        match target {}
    }

    pub(super) fn ask_to_end(&self) {
        match *self {}
    }

    pub(super) fn wait(self, _deadline: std::time::Instant) -> Published {
        match self {}
    }
}
