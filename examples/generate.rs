//! A world without the command line: load it, step a session, write a clip.
//!
//! ```text
//! cargo run --release --example generate -- weights/gravity balls.mp4
//! ```

use std::path::PathBuf;

use acdit_codec::vae::Vae;
use acdit_codec::video::{FileConfig, FileWriter};
use acdit_runtime::device::{DeviceChoice, Placement, Precision};
use acdit_runtime::{Session, Settings, World, frame_size, render};
use anyhow::Context;

const BLOCKS: usize = 40;
/// Blocks for which each label holds.
const HOLD: usize = 8;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let weights = arguments.next().context("expected a weights folder")?;
    let out = arguments.next().context("expected a name for the clip")?;

    let Placement { device, kind } = Placement::select(DeviceChoice::Auto, Precision::Auto)?;
    let world = World::load(&weights, device, kind)?;
    let vae = Vae::load(&weights.join("vae"), device, kind)?;
    let source = frame_size(&world, &vae)?;
    let config = FileConfig { source, scale: 4, frames_per_second: world.meta.fps, quality: 18 };
    let mut file = FileWriter::create(&out, &config)?;

    let mut session = Session::prompted(&world, Settings::of(&world, 0))?;
    let names: Vec<&str> = world.meta.labels.iter().map(|label| label.name.as_str()).collect();
    let labels = (0..BLOCKS).map(|block| (block / HOLD % names.len()) as i64);
    for rendered in render(&world, &vae.decoder, &mut session, labels) {
        let rendered = rendered?;
        let (block, seconds) = (&rendered.block, rendered.timings.total());
        println!("block {:3}  {:8} {seconds:.3} s", block.index, names[block.label as usize]);
        for frame in &rendered.frames {
            file.write(frame)?;
        }
    }
    file.finish()?;
    Ok(())
}
