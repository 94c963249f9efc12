//! Uploads in a build without FFmpeg: refused.

use acdit_codec::Frame;
use acdit_io::Refusal;

use super::UploadArgs;
use crate::film::Wanted;

pub(super) fn announce(_args: UploadArgs) {}

pub(super) fn last_frames(
    _clip: &[u8],
    _wanted: Wanted,
    _args: UploadArgs,
    _abandoned: impl Fn() -> bool,
) -> Result<Vec<Frame>, Refusal> {
    Err(Refusal::new("unsupported", "this server can neither read nor write clips"))
}
