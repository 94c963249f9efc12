//! The rolling window: which clean blocks the next block can still see, and why the stream never ends.
//!
//! Two modes, both exact (the streamed computation equals the training one):
//!
//! - **Windowed**, for weights trained with the windowed mask. Block `i` of the stream stands at position `i` for ever
//!   and keys are stored rotated. A new block is appended while the oldest is still there, as `c_i` attends
//!   `c_{i−W}..c_i`; then the oldest is evicted, as `n_{i+1}` attends `c_{i+1−W}..c_i`. Positions are relative, so
//!   dropping a block changes nothing for the others.
//! - **Recompute**, for every checkpoint. The window's blocks stand at positions `0..W` and the next block behind them,
//!   as in a training clip. While the clip fills, blocks are appended (the published behaviour). Once full, every slide
//!   forgets all keys and runs one clean pass over the W blocks that remain.
//!
//! A window is a value: [`Window::appended`] makes the next one and leaves this one whole. Tensors are shared, so keeping
//! an old window, or forking one, costs nothing.

use std::collections::VecDeque;

use acdit_model::{Acdit, KvStore, RopeTable};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::Error;

/// No stream gets so far: at a thousand blocks a second it would take nine thousand years.
const LAST_BLOCK: u64 = 1 << 48;

/// How the window moves on when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowMode {
    /// Rebuild keys and values of the remaining blocks at positions from 0: exact for every checkpoint.
    Recompute,
    /// Drop the oldest block's keys and values: exact for weights trained with the windowed mask.
    Windowed,
}

/// Clean blocks with their keys and values.
#[derive(Debug)]
pub struct Window {
    mode: WindowMode,
    capacity: usize,
    /// Stream index of the next block.
    next: i64,
    /// Tokens of the blocks held, oldest first: (1, B, p²·C) f32 each.
    blocks: VecDeque<Tensor>,
    /// Rotated keys and values per layer: (1, H, P, d) each.
    layers: Vec<(Tensor, Tensor)>,
}

impl Clone for Window {
    fn clone(&self) -> Self {
        Self {
            blocks: self.blocks.iter().map(Tensor::shallow_clone).collect(),
            layers: share(&self.layers),
            ..*self
        }
    }
}

impl Window {
    /// An empty window of `capacity` blocks W.
    ///
    /// # Errors
    /// [`Error::Window`] if the weights cannot be streamed exactly with this mode and capacity.
    pub fn new(model: &Acdit, capacity: usize, mode: WindowMode) -> Result<Self, Error> {
        let config = model.config();
        let fail = |text: String| Err(Error::Window(text));
        match (mode, config.context_window) {
            (WindowMode::Windowed, None) => {
                return fail("these weights were not trained with a windowed mask: use recompute".into());
            }
            (WindowMode::Windowed, Some(trained)) if trained != capacity as i64 => {
                return fail(format!(
                    "these weights were trained with a window of {trained} blocks, not {capacity}"
                ));
            }
            _ => {}
        }
        let longest = config.axis_lengths[0] / config.frames_per_block - 1;
        if capacity == 0 {
            return fail("a window holds at least 1 block".into());
        }
        if mode == WindowMode::Recompute && config.square_block.is_none() && capacity as i64 > longest.max(1)
        {
            return fail(format!(
                "window of {capacity} blocks: these weights' positions reach {longest} and one more"
            ));
        }
        Ok(Self { mode, capacity, next: 0, blocks: VecDeque::new(), layers: Vec::new() })
    }

    /// Blocks W at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks held.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the next block has no context.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// How the window moves on.
    pub fn mode(&self) -> WindowMode {
        self.mode
    }

    /// Position at which the next block is denoised.
    pub fn position(&self) -> i64 {
        match self.mode {
            WindowMode::Windowed => self.next,
            WindowMode::Recompute => self.blocks.len() as i64,
        }
    }

    /// Keys and values per layer, (1, H, P, d) each.
    pub fn layers(&self) -> &[(Tensor, Tensor)] {
        &self.layers
    }

    /// Tokens of the blocks held, oldest first: (1, B, p²·C) each.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.blocks.iter()
    }

    /// A view for denoising: the current block attends the window and itself and leaves no trace.
    pub fn reader(&self) -> Reader {
        Reader { layers: share(&self.layers) }
    }

    /// As [`Self::reader`], for a batch: one row for each of `windows`, which hold equally many blocks.
    pub(crate) fn readers(windows: &[&Self]) -> Reader {
        Reader { layers: stack(windows) }
    }

    /// Whether the keys and values are there: an anchor of the past may lack them.
    pub(crate) fn is_cached(&self) -> bool {
        self.blocks.is_empty() || !self.layers.is_empty()
    }

    /// This window, without the keys and values where the next block rebuilds them: with that block it is whole again.
    pub(crate) fn without_spare_cache(&self) -> Self {
        let mut window = self.clone();
        if self.mode == WindowMode::Recompute && self.blocks.len() == self.capacity {
            window.layers.clear();
        }
        window
    }

    /// This window with what a saved one held: `blocks` (1, B, p²·C) and `layers` (1, H, P, d).
    ///
    /// # Errors
    /// [`Error::Window`] for tensors that no window of these weights holds.
    pub(crate) fn holding(
        self,
        model: &Acdit,
        next: u64,
        blocks: VecDeque<Tensor>,
        layers: Vec<(Tensor, Tensor)>,
    ) -> Result<Self, Error> {
        let config = model.config();
        let (count, tokens) = (blocks.len(), config.block_tokens());
        let cached = [1, config.num_attention_heads, count as i64 * tokens, config.head_dim()];
        let fits = count <= self.capacity
            && (count as u64..=LAST_BLOCK).contains(&next)
            && blocks.iter().all(|block| block.size() == [1, tokens, config.token_width()])
            && layers.iter().all(|(keys, values)| keys.size() == cached && values.size() == cached)
            && (layers.is_empty() || layers.len() as i64 == config.num_layers);
        if !fits {
            return Err(Error::Window(format!("{count} blocks that do not fit these weights")));
        }
        Ok(Self { next: next as i64, blocks, layers, ..self })
    }

    /// The window after the clean block `tokens` (1, B, p²·C).
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn appended(&self, model: &Acdit, tokens: &Tensor) -> Result<Self, Error> {
        let mut windows = Self::all_appended(&[self], model, tokens)?;
        Ok(windows.remove(0))
    }

    /// As [`Self::appended`], of N windows as one batch: the clean blocks are `tokens` (N, B, p²·C). The windows have one
    /// mode and capacity and hold equally many blocks.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub(crate) fn all_appended(
        windows: &[&Self],
        model: &Acdit,
        tokens: &Tensor,
    ) -> Result<Vec<Self>, Error> {
        let first = windows[0];
        let slides = first.blocks.len() == first.capacity;
        let rows = windows.iter().zip(0..).map(|(window, row)| {
            let mut blocks: VecDeque<Tensor> = window.blocks.iter().map(Tensor::shallow_clone).collect();
            blocks.push_back(own_row(tokens, row));
            if slides {
                blocks.pop_front();
            }
            blocks
        });
        let rows: Vec<VecDeque<Tensor>> = rows.collect();
        let layers = if first.mode == WindowMode::Recompute && slides {
            let clips: Vec<Tensor> =
                rows.iter().map(|blocks| Tensor::stack(&blocks.iter().collect::<Vec<_>>(), 1)).collect();
            let rope = model.rope().table(0, first.capacity as i64, model.device())?;
            encode(model, &Tensor::cat(&clips, 0), &rope, Vec::new())?
        } else {
            encode(model, &tokens.unsqueeze(1), &positions(windows, model)?, stack(windows))?
        };
        let kept = rows[0].len() as i64 * model.config().block_tokens();
        let next = windows.iter().zip(rows).zip(0..).map(|((window, blocks), row)| {
            let own = |cached: &Tensor| own_row(&newest(cached, kept), row);
            let layers = layers.iter().map(|(keys, values)| (own(keys), own(values))).collect();
            Self { blocks, layers, next: window.next + 1, ..**window }
        });
        Ok(next.collect())
    }
}

/// The table of the next block of each window; they always have a row each, so that what a row goes through does not
/// depend on whether its neighbours stand where it stands.
pub(crate) fn positions(windows: &[&Window], model: &Acdit) -> Result<RopeTable, Error> {
    let table = |window: &&Window| model.rope().table(window.position(), 1, model.device());
    match windows {
        [alone] => Ok(table(alone)?),
        many => {
            let tables: Vec<RopeTable> = many.iter().map(table).collect::<Result<_, _>>()?;
            Ok(RopeTable::stacked(&tables))
        }
    }
}

/// Keys and values per layer, (N, H, P, d) each, of N windows.
fn stack(windows: &[&Window]) -> Vec<(Tensor, Tensor)> {
    match windows {
        [alone] => share(&alone.layers),
        many => (0..many[0].layers.len())
            .map(|layer| {
                let part = |part: fn(&(Tensor, Tensor)) -> &Tensor| {
                    Tensor::cat(&many.iter().map(|w| part(&w.layers[layer])).collect::<Vec<_>>(), 0)
                };
                (part(|(keys, _)| keys), part(|(_, values)| values))
            })
            .collect(),
    }
}

/// Row `row` of a batch (N, …) as (1, …), in memory of its own: a session must not keep its neighbours' alive.
fn own_row(batch: &Tensor, row: i64) -> Tensor {
    if batch.size()[0] == 1 { batch.shallow_clone() } else { batch.narrow(0, row, 1).copy() }
}

/// Keys and values of `past` and of clean blocks (N, T, B, p²·C) behind it.
fn encode(
    model: &Acdit,
    clean: &Tensor,
    rope: &RopeTable,
    past: Vec<(Tensor, Tensor)>,
) -> Result<Vec<(Tensor, Tensor)>, Error> {
    let mut store = Appender { layers: past };
    model.encode_clean_at(clean, rope, &mut store)?;
    Ok(store.layers)
}

fn share(layers: &[(Tensor, Tensor)]) -> Vec<(Tensor, Tensor)> {
    layers.iter().map(|(keys, values)| (keys.shallow_clone(), values.shallow_clone())).collect()
}

/// The last `tokens` of (N, H, P, d), in memory of their own so that evicted ones are freed.
fn newest(cached: &Tensor, tokens: i64) -> Tensor {
    let length = cached.size()[2];
    match length == tokens {
        true => cached.shallow_clone(),
        false => cached.narrow(2, length - tokens, tokens).contiguous(),
    }
}

/// Collects what a clean pass produces behind what was there.
struct Appender {
    layers: Vec<(Tensor, Tensor)>,
}

impl KvStore for Appender {
    fn extend(&mut self, layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor) {
        match self.layers.get_mut(layer) {
            None => self.layers.push((keys, values)),
            Some((past_keys, past_values)) => {
                *past_keys = Tensor::cat(&[&*past_keys, &keys], 2);
                *past_values = Tensor::cat(&[&*past_values, &values], 2);
            }
        }
        let (keys, values) = &self.layers[layer];
        (keys.shallow_clone(), values.shallow_clone())
    }

    fn past_tokens(&self) -> i64 {
        self.layers.first().map_or(0, |(keys, _)| keys.size()[2])
    }
}

/// Read-only [`KvStore`] over one or more [`Window`]s: one cache for all guidance branches of a batch.
#[derive(Debug)]
pub struct Reader {
    /// (N, H, P, d) each.
    layers: Vec<(Tensor, Tensor)>,
}

impl KvStore for Reader {
    /// The new keys and values are of all rows' first branch, then of all rows' second: (branches · N, H, L, d).
    fn extend(&mut self, layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor) {
        let Some((past_keys, past_values)) = self.layers.get(layer) else { return (keys, values) };
        let behind = |past: &Tensor, new: Tensor| {
            let (rows, branches) = (past.size()[0], new.size()[0] / past.size()[0]);
            if rows == 1 {
                let past = past.expand([&[branches], &past.size()[1..]].concat(), false);
                return Tensor::cat(&[past, new], 2);
            }
            let past = past.unsqueeze(0).expand([&[branches], &past.size()[..]].concat(), false);
            let new = new.unflatten(0, [branches, rows]);
            Tensor::cat(&[past, new], 3).flatten(0, 1)
        };
        (behind(past_keys, keys), behind(past_values, values))
    }

    fn past_tokens(&self) -> i64 {
        self.layers.first().map_or(0, |(keys, _)| keys.size()[2])
    }
}

#[cfg(test)]
mod tests;
