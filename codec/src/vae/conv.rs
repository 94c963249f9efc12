//! The convolutions both autoencoders are made of, initialised as PyTorch initialises `nn.Conv2d`.

use tch::Tensor;
use tch::nn::{self, Init, Path};

/// A square convolution, to be registered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub(super) inputs: i64,
    pub(super) outputs: i64,
    pub(super) kernel: i64,
    pub(super) stride: i64,
    pub(super) padding: i64,
    pub(super) bias: bool,
}

impl Conv {
    /// 3×3 at the same resolution, with bias.
    pub(super) fn three(inputs: i64, outputs: i64) -> Self {
        Self { inputs, outputs, kernel: 3, stride: 1, padding: 1, bias: true }
    }

    /// 1×1, with bias.
    pub(super) fn one(inputs: i64, outputs: i64) -> Self {
        Self { inputs, outputs, kernel: 1, stride: 1, padding: 0, bias: true }
    }

    /// Registers `weight` and, if wanted, `bias` under `vs`: U(-1/√fan_in, 1/√fan_in), PyTorch's default.
    pub(super) fn register(self, vs: Path) -> nn::Conv2D {
        let bound = ((self.inputs * self.kernel * self.kernel) as f64).sqrt().recip();
        let init = Init::Uniform { lo: -bound, up: bound };
        let config = nn::ConvConfig {
            stride: self.stride,
            padding: self.padding,
            bias: self.bias,
            ws_init: init,
            bs_init: init,
            ..Default::default()
        };
        nn::conv2d(vs, self.inputs, self.outputs, self.kernel, config)
    }
}

/// Nearest-neighbour upsampling: (F, C, h, w) → (F, C, 2·h, 2·w).
pub(super) fn double(xs: &Tensor) -> Tensor {
    let (_, _, h, w) = xs.size4().expect("a convolution's output has four axes");
    xs.upsample_nearest2d([2 * h, 2 * w], None, None)
}
