//! A tiny world with real weights files behind it: a random network and a random VAE of 16×16 pixels.

use acdit_codec::vae::{Config as VaeConfig, Vae, tiny};
use acdit_model::{Config, Preset};
use acdit_runtime::World;
use tch::{Device, Kind, nn};

/// Blocks of two 16×16 frames, latents of 8×8, a windowed mask of two blocks, three labels.
pub(crate) fn config() -> Config {
    Config {
        hidden_size: 32,
        num_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        sample_height: 8,
        sample_width: 8,
        sample_frames: 8,
        frames_per_block: 2,
        axis_lengths: vec![8, 4, 4],
        context_window: Some(2),
        ..Config::video(Preset::B, 64, 3)
    }
}

/// A network of [`config`] and a VAE that fits it.
pub(crate) fn world() -> (World, Vae) {
    let world = World::random(&config(), 5, Device::Cpu, Kind::Float).expect("the test config is valid");

    let stages = vec![1, 1];
    let config = tiny::Config {
        encoder_block_out_channels: vec![8; 2],
        decoder_block_out_channels: vec![8; 2],
        num_encoder_blocks: stages.clone(),
        num_decoder_blocks: stages,
        ..tiny::Config::default()
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let vs = nn::VarStore::new(Device::Cpu);
    let _ = tiny::AutoencoderTiny::new(&vs.root(), &config);
    Vae::save(folder.path(), &VaeConfig::AutoencoderTiny(config), &vs, Kind::Float).expect("saved");
    let vae = Vae::load(folder.path(), Device::Cpu, Kind::Float).expect("what was saved loads");
    (world, vae)
}
