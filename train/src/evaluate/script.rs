//! Networks that measurements are made with, as TorchScript files that the user brings: the features of FVD, the distance
//! of LPIPS. A TorchScript file is a program and runs with all rights of this one, so it must come from who is trusted.

use std::path::{Path, PathBuf};

use acdit_codec::{Frame, color};
use sha2::{Digest, Sha256};
use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use crate::Error;

/// Clips in one call of the features' network: as many frames as StyleGAN-V puts there at 256×256.
const CLIPS_AT_ONCE: usize = 8;

struct Script {
    path: PathBuf,
    sha256: String,
    module: CModule,
    device: Device,
}

impl Script {
    fn load(path: &Path, device: Device) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut module = CModule::load_data_on_device(&mut bytes.as_slice(), device)
            .map_err(|e| refusal(path, format!("not a TorchScript file: {}", reason(&e))))?;
        module.f_set_eval()?;
        Ok(Self { path: path.into(), sha256, module, device })
    }

    fn call(&self, inputs: &[IValue]) -> Result<Tensor, Error> {
        let output = tch::no_grad(|| self.module.forward_is(inputs));
        match output.map_err(|e| self.refusal(format!("its forward failed: {}", reason(&e))))? {
            IValue::Tensor(tensor) => Ok(tensor.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?),
            _ => Err(self.refusal("its forward returns no tensor".into())),
        }
    }

    fn refusal(&self, reason: String) -> Error {
        refusal(&self.path, reason)
    }
}

fn refusal(path: &Path, reason: String) -> Error {
    Error::Script { path: path.into(), reason }
}

/// The line that says what went wrong: TorchScript's own errors come last, after a traceback; libtorch's come first.
fn reason(error: &TchError) -> String {
    let text = error.to_string();
    let raised = text.lines().rev().find(|line| line.contains("Error: "));
    raised.or_else(|| text.lines().next()).unwrap_or_default().trim().to_owned()
}

/// A network from clips to features, called as the I3D of StyleGAN-V: `forward(clips, rescale, resize, return_features)`
/// with clips (N, 3, T, H, W) f32 of the values 0 to 255 and all three switches on, so their order does not matter. The
/// module scales values and pictures itself and returns (N, D).
pub struct ClipFeatures(Script);

impl ClipFeatures {
    /// # Errors
    /// [`Error::Io`], or [`Error::Script`] for a file that is no TorchScript.
    pub fn load(path: &Path, device: Device) -> Result<Self, Error> {
        Script::load(path, device).map(Self)
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.0.sha256
    }

    /// Features (N, D) f64 of N clips of one length and size.
    fn features(&self, clips: &[Vec<Frame>]) -> Result<Tensor, Error> {
        let clips = (clips.iter())
            .map(|clip| {
                let pixels = color::to_tensor(clip, self.0.device)?; // (T, 3, H, W)
                let bytes = pixels.f_add_scalar(1.0)?.f_mul_scalar(127.5)?.f_round()?;
                Ok(bytes.f_transpose(0, 1)?) // (3, T, H, W)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let count = clips.len() as i64;
        let switch = || IValue::Bool(true);
        let inputs = [IValue::Tensor(Tensor::f_stack(&clips, 0)?), switch(), switch(), switch()];
        let features = self.0.call(&inputs)?;
        match *features.size() {
            [samples, width] if samples == count && width > 0 => Ok(features),
            _ => {
                let got = features.size();
                Err(self.0.refusal(format!("its features are {got:?}, expected [{count}, D]")))
            }
        }
    }
}

/// The features of clips that come one by one.
pub struct FeatureSet<'a> {
    network: &'a ClipFeatures,
    waiting: Vec<Vec<Frame>>,
    done: Vec<Tensor>,
}

impl<'a> FeatureSet<'a> {
    /// An empty set.
    pub fn new(network: &'a ClipFeatures) -> Self {
        Self { network, waiting: Vec::new(), done: Vec::new() }
    }

    /// Adds a clip; all have one length and size.
    ///
    /// # Errors
    /// [`Error::Script`] if the network fails or returns something else than (N, D).
    pub fn push(&mut self, clip: Vec<Frame>) -> Result<(), Error> {
        self.waiting.push(clip);
        if self.waiting.len() == CLIPS_AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// All features (N, D) f64; `None` of no clip.
    ///
    /// # Errors
    /// As [`FeatureSet::push`].
    pub fn finish(mut self) -> Result<Option<Tensor>, Error> {
        if !self.waiting.is_empty() {
            self.flush()?;
        }
        Ok(if self.done.is_empty() { None } else { Some(Tensor::f_cat(&self.done, 0)?) })
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.done.push(self.network.features(&self.waiting)?);
        self.waiting.clear();
        Ok(())
    }
}

/// A network from pairs of pictures to distances, such as LPIPS: `forward(a, b)` with a and b (N, 3, H, W) f32 in [-1, 1],
/// which returns N numbers.
pub struct PerceptualDistance(Script);

impl PerceptualDistance {
    /// # Errors
    /// As [`ClipFeatures::load`].
    pub fn load(path: &Path, device: Device) -> Result<Self, Error> {
        Script::load(path, device).map(Self)
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.0.sha256
    }

    /// The distances of N pairs, (N,) f64.
    ///
    /// # Errors
    /// [`Error::Script`] if the network fails or does not return N numbers.
    pub fn distances(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
        let input = |x: &Tensor| Ok::<_, Error>(IValue::Tensor(x.f_to_device(self.0.device)?));
        let distances = self.0.call(&[input(a)?, input(b)?])?;
        let (pairs, got) = (a.size()[0], distances.size());
        if distances.numel() as i64 != pairs {
            return Err(self.0.refusal(format!("its distances are {got:?}, expected {pairs} numbers")));
        }
        Ok(distances.f_view([pairs])?)
    }
}

#[cfg(test)]
mod tests {
    use acdit_codec::Size;

    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/evaluation/");

    fn fixture(name: &str) -> PathBuf {
        Path::new(FIXTURES).join(name)
    }

    fn clip(shade: impl Fn(usize) -> u8) -> Vec<Frame> {
        let size = Size { width: 6, height: 4 };
        (0..9).map(|t| Frame::new(size, vec![shade(t); 6 * 4 * 3]).unwrap()).collect()
    }

    fn refusal_of(path: &Path) -> String {
        match ClipFeatures::load(path, Device::Cpu) {
            Err(error) => error.to_string(),
            Ok(network) => network.features(&[clip(|_| 0), clip(|_| 0)]).unwrap_err().to_string(),
        }
    }

    /// The stand-in refuses to work unless all three switches are on.
    #[test]
    fn clips_become_features_in_their_order() {
        let network = ClipFeatures::load(&fixture("features.pt"), Device::Cpu).unwrap();
        let mut set = FeatureSet::new(&network);
        for index in 0..11 {
            // grows by `index` a frame from index
            set.push(clip(|t| (index + index * t) as u8)).unwrap();
        }
        let features = set.finish().unwrap().unwrap();
        assert_eq!(features.size(), [11, 12]);
        for index in 0..11 {
            let mean = 5.0 * index as f64 / 127.5 - 1.0; // of index to 9 · index
            let change = 10.0 * index as f64 / 127.5;
            let got = |feature: i64| features.double_value(&[index, feature]);
            assert!((got(0) - mean).abs() < 1e-5 && (got(11) - change).abs() < 1e-5, "{index}");
        }
        assert!(FeatureSet::new(&network).finish().unwrap().is_none());
        assert_eq!(network.sha256().len(), 64);
    }

    #[test]
    fn distances_are_one_number_for_each_pair() {
        let network = PerceptualDistance::load(&fixture("distances.pt"), Device::Cpu).unwrap();
        let a = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        let b = Tensor::from_slice(&[0.5f32, -0.25]).view([2, 1, 1, 1]) + &a;
        let distances = Vec::<f64>::try_from(network.distances(&a, &b).unwrap()).unwrap();
        assert_eq!(distances, [0.5, 0.25]);
    }

    #[test]
    fn files_that_are_no_such_network_are_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pt");
        assert!(refusal_of(&path).contains("x.pt: No such file"));
        std::fs::write(&path, "not this").unwrap();
        assert!(refusal_of(&path).contains("x.pt: not a TorchScript file"));
        // two tensors are wanted, not a clip and three switches
        let text = refusal_of(&fixture("distances.pt"));
        assert!(text.contains("its forward failed") && !text.contains('\n'), "{text}");
        // three switches are wanted, not a second picture
        let network = PerceptualDistance::load(&fixture("features.pt"), Device::Cpu).unwrap();
        let picture = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        let text = network.distances(&picture, &picture).unwrap_err().to_string();
        assert!(text.contains("features.pt: its forward failed") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn features_that_are_not_two_dimensional_are_refused() {
        let text = refusal_of(&fixture("maps.pt"));
        assert!(text.ends_with("maps.pt: its features are [2, 3, 9], expected [2, D]"), "{text}");
    }
}
