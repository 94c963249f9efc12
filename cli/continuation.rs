//! `continue`: a clip's last frames, and how the world goes on from them.

use std::path::PathBuf;

use acdit_codec::color;
use acdit_runtime::{Session, frame_size};
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tch::Device;

use crate::film::{self, Wanted};
use crate::generate::{Made, Making};
use crate::output::Output;
use crate::world;

#[derive(Debug, Args)]
#[command(after_help = "\
The film opens with the clip's last blocks, as many as the window holds: cropped and scaled to the
world's size, at its rate, but not otherwise touched. What follows is generated. The clip is decoded in
this process, as your own file: what others send belongs into `serve`, which decodes it confined.

Examples:
  acdit-world continue clip.mp4 --frames 120 --out longer.mp4
  acdit-world continue v_Biking_g01_c01.avi --weights ucf --label Biking --frames 64 --out on.mp4")]
pub(crate) struct Continue {
    /// The clip: MP4, MOV, AVI, MKV or WebM
    #[arg(value_name = "CLIP")]
    clip: PathBuf,
    #[command(flatten)]
    making: Making,
}

#[derive(Debug, Serialize)]
struct Continued {
    /// Frames of the clip before the generated ones.
    context_frames: usize,
    #[serde(flatten)]
    made: Made,
}

impl Continue {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Self { clip, making } = self;
        let count = making.frames()?;
        let loaded = making.world.load()?;
        let (world, vae) = (&loaded.world, &loaded.vae);
        let settings = making.world.sampling.settings(world, making.seed);
        let mut session = Session::new(world, settings)?;
        let per_block = world.model.config().frames_per_block as usize;
        let wanted = Wanted {
            size: frame_size(world, vae)?,
            frames_per_second: world.meta.fps,
            frames: settings.window * per_block,
        };
        let mut context = film::last_frames(&clip, wanted)?;
        let context = context.split_off(context.len() % per_block);
        if context.is_empty() {
            let fps = world.meta.fps;
            bail!("{}: too short, {per_block} frames at {fps} per second are needed", clip.display());
        }
        let label = world::labels(&world.meta, &making.label)?[0];
        let latents = vae.encoder.encode(&color::to_tensor(&context, Device::Cpu)?)?;
        session.prime(world, &latents, label)?;
        let made = making.film(&loaded, &mut session, count, &context)?;
        let continued = Continued { context_frames: context.len(), made };
        output.print(&continued, || {
            format!("{} after {} of the clip", continued.made.line(&making.out), continued.context_frames)
        })
    }
}
