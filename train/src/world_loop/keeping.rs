//! What a run leaves on disk: checkpoints to go on from, and the averaged weights with a picture of what they generate.

use std::collections::BTreeMap;
use std::path::Path;

use acdit_codec::vae::Vae;
use acdit_codec::{Frame, color, still};
use acdit_model::diffusion::SchedulerConfig;
use acdit_model::write_atomically;
use acdit_runtime::{Session, Settings, StepInput, World, WorldFolder};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Learner, Progress, Recipe, Run};
use crate::Error;
use crate::checkpoint;
use crate::description::{Data, difference};

const SAMPLE_BLOCKS: usize = 16;
/// Pixels down that a film of samples has at least.
#[cfg(feature = "video")]
const SAMPLE_HEIGHT: u32 = 256;

#[derive(Serialize, Deserialize)]
struct State {
    progress: Progress,
    recipe: Recipe,
    /// [`Start::fingerprint`], if the run went on from weights.
    start: Option<String>,
    /// Names of the labels.
    labels: Vec<String>,
    /// What the run learns from; older checkpoints do not say.
    #[serde(default)]
    data: Option<Data>,
}

/// Writes a checkpoint, and what the averaged weights are and look like at that step.
pub(super) fn save(
    progress: &mut Progress,
    recipe: &Recipe,
    data: &Data,
    run: &Run<'_>,
    learner: &Learner,
    prompts: Option<&Tensor>,
) -> Result<(), Error> {
    let (optimizer, ema) = (&learner.optimizer, &learner.ema);
    let best = progress.save();
    let mut tensors: BTreeMap<String, Tensor> = optimizer.state().into_iter().chain([ema.state()]).collect();
    tensors.insert(PARAMETERS.into(), optimizer.parameters().values().shallow_clone());
    let state = State {
        progress: progress.clone(),
        recipe: recipe.clone(),
        start: run.start.map(|start| start.fingerprint.clone()),
        labels: run.meta.label_names(),
        data: Some(data.clone()),
    };
    let folder = run.out.join("checkpoints");
    let path = checkpoint::save(&folder, progress.step, run.keep, &state, &tensors)?;
    if best {
        checkpoint::mark_best(&folder, &path)?;
    }
    export(recipe, run, &optimizer.parameters().named(ema.values()), prompts, progress.step)
}

const PARAMETERS: &str = "parameters";

/// Share of the schedule after which [`Recipe::self_context`] holds.
pub(super) fn own_context_from(run: &Run<'_>) -> f64 {
    if run.start.is_some() { 0.0 } else { 2.0 / 3.0 }
}

/// Whether `recipe` goes on from `state` as if it had been followed from the start: it is the same, or differs in the
/// number of steps alone while neither schedule has come to its own context or to the fall of its rate.
fn goes_on(state: &State, recipe: &Recipe, run: &Run<'_>) -> bool {
    let own_context = own_context_from(run);
    let constant = if recipe.self_context > 0.0 && own_context > 0.0 {
        own_context.min(1.0 - recipe.decay)
    } else {
        1.0 - recipe.decay
    };
    let unchanged = |steps: u64| (state.progress.step as f64) <= steps as f64 * constant;
    let other_steps = Recipe { steps: recipe.steps, ..state.recipe.clone() };
    state.recipe == *recipe
        || (other_steps == *recipe && unchanged(recipe.steps) && unchanged(state.recipe.steps))
}

pub(super) fn restore(
    path: &Path,
    recipe: &Recipe,
    data: &Data,
    run: &Run<'_>,
    learner: &mut Learner,
) -> Result<Progress, Error> {
    let (state, tensors): (State, _) = checkpoint::load(path)?;
    let refuse = |reason| Err(Error::Checkpoint { path: path.into(), reason });
    match (&state.start, run.start) {
        (Some(_), None) => return refuse("that run went on from weights: name them again".to_owned()),
        (None, Some(_)) => return refuse("that run did not go on from weights".to_owned()),
        (Some(there), Some(here)) if *there != here.fingerprint => {
            return refuse("that run went on from other weights".to_owned());
        }
        _ => {}
    }
    if state.labels != run.meta.label_names() {
        return refuse(format!("that run learnt the labels {:?}", state.labels));
    }
    if !goes_on(&state, recipe, run) {
        let json = |recipe: &Recipe| serde_json::to_string(recipe).unwrap_or_default();
        let (there, here) = (json(&state.recipe), json(recipe));
        return refuse(format!("made with another recipe: {there} there, {here} here"));
    }
    if let Some(difference) = state.data.and_then(|there| difference(&there, data)) {
        return refuse(format!("that run learnt from other data: {difference}"));
    }
    let optimizer = &mut learner.optimizer;
    optimizer.restore(state.progress.step, &tensors)?;
    learner.ema.restore(state.progress.step, &tensors)?;
    let reason = format!("{PARAMETERS} is missing");
    let saved = tensors.get(PARAMETERS).ok_or(Error::Checkpoint { path: path.into(), reason })?;
    tch::no_grad(|| optimizer.parameters().values().shallow_clone().f_copy_(saved))?;
    Ok(state.progress)
}

/// Writes the averaged weights as a weights folder, and what they generate as a contact sheet and, in a build with FFmpeg, a
/// film.
fn export(
    recipe: &Recipe,
    run: &Run<'_>,
    tensors: &BTreeMap<String, Tensor>,
    prompts: Option<&Tensor>,
    step: u64,
) -> Result<(), Error> {
    let folder = run.out.join("weights");
    let scheduler = SchedulerConfig::paper(recipe.prediction);
    WorldFolder {
        config: &recipe.model,
        tensors,
        kind: Kind::BFloat16,
        scheduler: &scheduler,
        meta: run.meta,
        vae: Some(run.vae),
        prompts,
    }
    .write(&folder)?;
    let frames = sample(&folder, run.device)?;
    let samples = run.out.join("samples");
    std::fs::create_dir_all(&samples).map_err(|e| Error::io(&samples, e))?;
    let sheet = still::contact_sheet(&frames, 2 * recipe.model.frames_per_block as usize)?;
    let path = samples.join(format!("step-{step:08}.png"));
    write_atomically(&path, &still::png(&sheet)?)?;
    #[cfg(feature = "video")]
    film(&path.with_extension("mp4"), &frames, run.meta.fps)?;
    Ok(())
}

#[cfg(feature = "video")]
fn film(path: &Path, frames: &[Frame], frames_per_second: f64) -> Result<(), Error> {
    use acdit_codec::video::{FileConfig, FileWriter};

    let Some(source) = frames.first().map(Frame::size) else { return Ok(()) };
    // H.264 wants even sides, eyes want large ones
    let scale = 2 * SAMPLE_HEIGHT.div_ceil(2 * source.height);
    let mut film = FileWriter::create(path, &FileConfig { source, scale, frames_per_second, quality: 16 })?;
    frames.iter().try_for_each(|frame| film.write(frame))?;
    Ok(film.finish()?)
}

/// Frames by the very path that serves, the labels taken in turn.
fn sample(folder: &Path, device: Device) -> Result<Vec<Frame>, Error> {
    let world = World::load(folder, device, Kind::Float)?;
    let decoder = Vae::load(&folder.join("vae"), device, Kind::Float)?.decoder;
    let mut session = Session::prompted(&world, Settings::of(&world, 0))?;
    let labels = world.meta.labels.len();
    let mut frames = Vec::new();
    for block in 0..SAMPLE_BLOCKS {
        let input = StepInput { label: (block / 3 % labels) as i64, inject: None };
        let latents = session.step(&world, &input)?.latents;
        frames.extend(color::to_frames(&decoder.decode(&latents.to_device(device))?)?);
    }
    Ok(frames)
}
