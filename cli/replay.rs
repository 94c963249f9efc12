//! `replay`: a recording, or a session's log, computed again and compared with what it was.

use std::path::{Path, PathBuf};

use acdit_codec::{Frame, color};
use acdit_runtime::{Again, Entry, Stamp, Timeline, World, frame_size, read_log};
use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use crate::args::Compute;
use crate::failure::Failed;
use crate::film::{self, Film};
use crate::generate::stop_if_asked;
use crate::output::{self, Output};
use crate::sessions::fingerprint;
use crate::sidecar::{Run, Sidecar};
use crate::signals;
use crate::world::{self, Loaded};

/// Compute a recording or a session's log again, and compare every block with what it was
///
/// Blocks are equal to the last bit on the same kind of device, with the same number format and libtorch; there the first
/// block that differs ends it with status 1. Elsewhere small differences grow from block to block, and the pictures are
/// compared with the film's.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  acdit-world replay films/main-1.json                      # is the film what its log says?
  acdit-world replay films/main-1.json --out again.mp4      # the film once more, from its log
  curl -s http://127.0.0.1:8080/api/sessions/main/log > main.jsonl && acdit-world replay main.jsonl")]
pub(crate) struct Replay {
    /// A recording's JSON file, or a log of JSON lines as a server gives it
    file: PathBuf,
    /// Write what the blocks show, an MP4 file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Mean peak signal-to-noise ratio, in decibels, from which pictures count as the film's where bits cannot be compared
    #[arg(long, value_name = "DB", default_value_t = 18.0)]
    min_psnr: f64,
    /// A weights folder [default: the shipped weights/gravity]
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
}

/// What is to be computed again.
struct Recorded {
    log: Vec<Entry>,
    /// The blocks to show, in order; all of them if there is no film.
    film: Option<Vec<Run>>,
    /// Fingerprint of the weights.
    weights: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Replayed {
    blocks: u64,
    /// Blocks with the hash that the log has.
    equal: u64,
    /// Whether hashes had to be equal: device class, number format and libtorch are those of the log.
    same_device: bool,
    first_difference: Option<Difference>,
    film: Option<Likeness>,
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Difference {
    line: usize,
    block: u64,
    expected: String,
    got: String,
}

/// How like the film's pictures are to those computed again, over the frames that the model made.
#[derive(Debug, Serialize)]
struct Likeness {
    frames: u64,
    /// Decibels.
    mean_psnr: f64,
    /// Of the block that is least like.
    least_psnr: f64,
    least_like: u64,
}

impl Replay {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let Recorded { log, film, weights } = read(&self.file)?;
        let Some(Entry::Start { stamp, .. }) = log.first() else {
            bail!("{}: a log begins with a line of type start", self.file.display());
        };
        let folder = self.weights.clone().map_or_else(world::shipped, Ok)?;
        if let Some(expected) = weights
            && expected != fingerprint(&folder)?
        {
            bail!("{}: made with other weights than {}", self.file.display(), folder.display());
        }
        let loaded = world::load(folder, self.compute.or_as(stamp))?;
        let here = Stamp::of(&loaded.world);
        let same_device = (log.iter().filter_map(Entry::stamp))
            .all(|then| is_comparable(then, &here) && then.threads == stamp.threads);
        let pictures = Pictures::open(&loaded, self.out.as_deref(), film, &self.file)?;
        let (replayed, pictures) = recompute(&loaded.world, &log, same_device, pictures)?;
        let film = pictures.finish()?;
        let replayed = Replayed { same_device, film, out: self.out.clone(), ..replayed };
        output.print(&replayed, || replayed.text())?;
        replayed.verdict(self.min_psnr)
    }
}

fn read(file: &Path) -> anyhow::Result<Recorded> {
    let name = || file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(name)?;
    let first = text.lines().next().unwrap_or_default();
    if serde_json::from_str::<Entry>(first).is_ok() {
        return Ok(Recorded { log: read_log(&text).with_context(name)?, film: None, weights: None });
    }
    let sidecar = Sidecar::read(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{}: neither a recording's JSON nor a log of JSON lines", file.display()))?;
    Ok(Recorded { log: sidecar.log, film: Some(sidecar.film), weights: Some(sidecar.weights) })
}

/// Whether blocks must come out with the same bits. Threads are set to those that the log begins with.
fn is_comparable(then: &Stamp, now: &Stamp) -> bool {
    (&then.dtype, &then.device, &then.libtorch) == (&now.dtype, &now.device, &now.libtorch)
}

/// Computes all blocks, up to the first that differs where none may.
fn recompute<'a>(
    world: &World,
    log: &[Entry],
    same_device: bool,
    mut pictures: Pictures<'a>,
) -> anyhow::Result<(Replayed, Pictures<'a>)> {
    let total = log.iter().filter(|entry| matches!(entry, Entry::Block { .. })).count() as u64;
    let bar = output::progress(total, "blocks");
    let interrupt = signals::interrupt()?;
    let mut replayed = Replayed::default();
    let computed = Timeline::recompute(world, log, |again| {
        replayed.blocks += 1;
        match again.check() {
            Ok(()) => replayed.equal += 1,
            Err(_) if replayed.first_difference.is_some() => {}
            Err(error) => {
                replayed.first_difference = Some(Difference {
                    line: again.line,
                    block: again.index,
                    expected: again.expected.to_hex().to_string(),
                    got: again.block.hash.to_hex().to_string(),
                });
                if same_device {
                    return Err(error.into());
                }
            }
        }
        bar.inc(1);
        pictures.take(again)?;
        Ok(stop_if_asked(&interrupt)?)
    });
    bar.finish_and_clear();
    match computed {
        Err(error) if replayed.first_difference.is_none() || !same_device => Err(error),
        _ => Ok((replayed, pictures)),
    }
}

impl Replayed {
    fn text(&self) -> String {
        let Self { blocks, equal, .. } = self;
        let mut lines = vec![match &self.first_difference {
            None => format!("{blocks} blocks, all of them equal to the log's"),
            Some(Difference { line, block, expected, got }) => format!(
                "{equal} of {blocks} blocks equal to the log's; the first other one is block {block} in line \
                 {line}: {got}, the log has {expected}"
            ),
        }];
        if let Some(Likeness { frames, mean_psnr, least_psnr, least_like }) = self.film {
            lines.push(format!(
                "{frames} frames like the film's by {mean_psnr:.1} dB in the mean, by {least_psnr:.1} dB in block \
                 {least_like}"
            ));
        }
        lines.join("\n")
    }

    fn verdict(&self, min_psnr: f64) -> anyhow::Result<()> {
        let failed = |message: String| Err(Failed(message).into());
        match (&self.first_difference, &self.film) {
            (None, _) => Ok(()),
            (Some(Difference { block, .. }), _) if self.same_device => {
                failed(format!("block {block} is not the log's, on the same kind of device"))
            }
            (Some(_), None) => failed("other bits on another device, and no film to compare with".to_owned()),
            (Some(_), Some(Likeness { mean_psnr, .. })) if *mean_psnr >= min_psnr => Ok(()),
            (Some(_), Some(Likeness { mean_psnr, .. })) => {
                failed(format!("{mean_psnr:.1} dB like the film, expected {min_psnr} or more"))
            }
        }
    }
}

/// What the blocks show, compared with the film and written to a file as far as either is wanted.
struct Pictures<'a> {
    loaded: &'a Loaded,
    /// The blocks to show; all if there is none.
    runs: Option<Vec<Run>>,
    film: Option<Film>,
    out: Option<film::FileWriter>,
    frames: u64,
    blocks: u64,
    sum: f64,
    least: Option<(f64, u64)>,
}

impl<'a> Pictures<'a> {
    fn open(
        loaded: &'a Loaded,
        out: Option<&Path>,
        runs: Option<Vec<Run>>,
        file: &Path,
    ) -> anyhow::Result<Self> {
        let Loaded { world, vae, .. } = loaded;
        let (size, fps) = (frame_size(world, vae)?, world.meta.fps);
        let beside = file.with_extension("mp4");
        let film = match runs.is_some() && beside.is_file() {
            true => Some(Film::open(&beside, size, fps)?),
            false => None,
        };
        let out = out.map(|out| film::create(out, size, fps)).transpose()?;
        let (frames, blocks, sum, least) = (0, 0, 0.0, None);
        Ok(Self { loaded, runs, film, out, frames, blocks, sum, least })
    }

    fn take(&mut self, again: &Again) -> anyhow::Result<()> {
        let Again { turn, index, block, .. } = *again;
        let shown = self.runs.as_ref().is_none_or(|runs| runs.iter().any(|run| run.has(turn, index)));
        if !shown || self.film.is_none() && self.out.is_none() {
            return Ok(());
        }
        let decoder = &self.loaded.vae.decoder;
        let frames = tch::no_grad(|| color::to_frames(&decoder.decode(&block.latents)?))?;
        if let Some(out) = &mut self.out {
            frames.iter().try_for_each(|frame| out.write(frame))?;
        }
        let Some(film) = &mut self.film else { return Ok(()) };
        let mut error = 0.0;
        for frame in &frames {
            let Some(filmed) = film.next().transpose()? else {
                bail!("the film ends before block {index}");
            };
            error += squared_error(frame, &filmed);
        }
        // A clip's own pixels are shown in place of what its latents decode to.
        if block.injected == 0 {
            let psnr = psnr(error / frames.len() as f64);
            (self.frames, self.blocks) = (self.frames + frames.len() as u64, self.blocks + 1);
            self.sum += psnr;
            if self.least.is_none_or(|(least, _)| psnr < least) {
                self.least = Some((psnr, index));
            }
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Option<Likeness>> {
        if let Some(out) = self.out {
            out.finish()?;
        }
        let Self { frames, blocks, sum, least, .. } = self;
        Ok(least.map(|(least_psnr, least_like)| {
            let mean_psnr = sum / blocks as f64;
            Likeness { frames, mean_psnr, least_psnr, least_like }
        }))
    }
}

/// Mean over pixels and channels.
fn squared_error(a: &Frame, b: &Frame) -> f64 {
    let squares = a.rgb().iter().zip(b.rgb()).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2));
    squares.sum::<f64>() / a.rgb().len() as f64
}

/// Decibels; equal pictures count as 100, so that means are finite.
fn psnr(squared_error: f64) -> f64 {
    (10.0 * (255.0 * 255.0 / squared_error).log10()).min(100.0)
}

#[cfg(test)]
mod tests {
    use acdit_codec::Size;

    use super::*;

    #[test]
    fn likeness_is_in_decibels() {
        let frame = |shade| Frame::new(Size { width: 2, height: 1 }, vec![shade; 6]).unwrap();
        assert_eq!(squared_error(&frame(10), &frame(13)), 9.0);
        assert_eq!(psnr(0.0), 100.0);
        assert!((psnr(255.0 * 255.0 / 100.0) - 20.0).abs() < 1e-12);
    }

    #[test]
    fn threads_do_not_make_another_device() {
        let stamp = |device: &str, threads| Stamp {
            dtype: "f32".into(),
            device: device.into(),
            libtorch: "2.11.0".into(),
            threads,
        };
        assert!(is_comparable(&stamp("cpu", 1), &stamp("cpu", 2)));
        assert!(!is_comparable(&stamp("cpu", 1), &stamp("cuda", 1)));
    }
}
