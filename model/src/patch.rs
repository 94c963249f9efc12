//! Latents to tokens and back.

use tch::Tensor;

use crate::Config;

/// Cuts blocks of latents into tokens. A token's values are ordered (row in patch, column in patch, channel).
#[derive(Debug, Clone, Copy)]
pub struct Patcher {
    patch: i64,
    channels: i64,
    /// Token rows and columns of one frame of a block.
    grid: (i64, i64),
    /// Blocks a side, if blocks tile an image.
    tiles: Option<(i64, i64)>,
}

impl Patcher {
    /// The patcher of a network's blocks.
    pub fn new(config: &Config) -> Self {
        let (rows, columns) = config.token_grid();
        let (grid, tiles) = match config.square_block {
            Some(side) => ((side, side), Some((rows / side, columns / side))),
            None => ((rows, columns), None),
        };
        Self { patch: config.patch_size, channels: config.in_channels, grid, tiles }
    }

    /// Block latents (N, F, C, h, w) → tokens (N, B, p²·C).
    pub fn tokens(&self, latents: &Tensor) -> Tensor {
        let (rows, columns) = self.grid;
        let (n, f, p, c) = (latents.size()[0], latents.size()[1], self.patch, self.channels);
        let cut = latents.view(&[n, f, c, rows, p, columns, p][..]); // (N, F, C, h1, h2, w1, w2)
        cut.permute([0, 1, 3, 5, 4, 6, 2]).reshape([n, f * rows * columns, p * p * c])
    }

    /// Tokens (N, B, p²·C) → block latents (N, F, C, h, w).
    pub fn latents(&self, tokens: &Tensor) -> Tensor {
        let (rows, columns) = self.grid;
        let (n, p, c) = (tokens.size()[0], self.patch, self.channels);
        let f = tokens.size()[1] / (rows * columns);
        let cut = tokens.view(&[n, f, rows, columns, p, p, c][..]); // (N, F, h1, w1, h2, w2, C)
        cut.permute([0, 1, 6, 2, 4, 3, 5]).reshape([n, f, c, rows * p, columns * p])
    }

    /// Image mode: all blocks of one image (T, C, side, side), in raster order → (1, C, h, w).
    /// In video mode blocks are frames already and come back unchanged.
    pub fn assemble(&self, blocks: &Tensor) -> Tensor {
        let Some((down, across)) = self.tiles else { return blocks.shallow_clone() };
        let (c, h, w) = (blocks.size()[1], blocks.size()[2], blocks.size()[3]);
        let tiled = blocks.view([down, across, c, h, w]).permute([2, 0, 3, 1, 4]); // (C, T1, h, T2, w)
        tiled.reshape([1, c, down * h, across * w])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;
    use tch::{Device, Kind};

    #[test]
    fn token_order_is_row_column_channel() {
        let config = Config { in_channels: 2, frames_per_block: 1, ..Config::video(Preset::B, 32, 1) }; // 4x4 latents
        let latents = Tensor::arange(32, (Kind::Float, Device::Cpu)).view([1, 1, 2, 4, 4]);
        let patcher = Patcher::new(&config);
        let tokens = patcher.tokens(&latents);
        // second token: rows 0..2, columns 2..4, channels (0, 1) innermost
        let expected = Tensor::from_slice(&[2f32, 18., 3., 19., 6., 22., 7., 23.]);
        assert!(tokens.get(0).get(1).equal(&expected), "{}", tokens.get(0).get(1));
        assert!(patcher.latents(&tokens).equal(&latents));
    }

    #[test]
    fn image_blocks_assemble_in_raster_order() {
        let config = Config {
            square_block: Some(1),
            nd_split: vec![1, 1],
            axis_lengths: vec![2, 2],
            in_channels: 1,
            ..Config::video(Preset::B, 32, 1)
        };
        let blocks =
            Tensor::arange(4, (Kind::Float, Device::Cpu)).view([4, 1, 1, 1]).expand([4, 1, 2, 2], false);
        let image = Patcher::new(&config).assemble(&blocks.contiguous());
        let expected =
            Tensor::from_slice(&[0f32, 0., 1., 1., 0., 0., 1., 1., 2., 2., 3., 3., 2., 2., 3., 3.])
                .view([1, 1, 4, 4]);
        assert!(image.equal(&expected));
    }
}
