//! The only conversion between bytes and the numbers the networks see: `x / 127.5 - 1`.

use tch::{Device, Kind, Tensor};

use crate::frame::common_size;
use crate::{Error, Frame, Size};

/// Stacks frames of one size into (F, 3, H, W), f32 in [-1, 1].
///
/// # Errors
/// [`Error::NoFrames`], [`Error::MixedSizes`], or [`Error::Torch`] if the device has no room.
pub fn to_tensor(frames: &[Frame], device: Device) -> Result<Tensor, Error> {
    let Size { width, height } = common_size(frames)?;
    let pixels = frames.iter().map(Frame::rgb).collect::<Vec<_>>().concat();
    let bytes = Tensor::f_from_slice(&pixels)?.f_to_device(device)?;
    let shape = [frames.len() as i64, i64::from(height), i64::from(width), 3];
    let channels_first = bytes.f_view(shape)?.f_permute([0, 3, 1, 2])?; // (F, 3, H, W)
    Ok(channels_first.f_to_kind(Kind::Float)?.f_div_scalar(127.5)?.f_sub_scalar(1.0)?.f_contiguous()?)
}

/// Unstacks (F, 3, H, W) of any float type; values beyond [-1, 1] are clamped, the rest rounded to the nearest byte,
/// so that bytes which went through [`to_tensor`] come back unchanged.
///
/// # Errors
/// [`Error::Shape`], [`Error::NotANumber`], [`Error::Torch`].
pub fn to_frames(pixels: &Tensor) -> Result<Vec<Frame>, Error> {
    let shape = pixels.size();
    let [count, 3, height, width] = shape[..] else {
        return Err(Error::Shape { expected: "(F, 3, H, W)", got: shape });
    };
    let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(Error::Shape { expected: "(F, 3, H, W)", got: shape });
    };
    let size = Size { width, height };
    let pixels = pixels.f_to_kind(Kind::Float)?;
    if i64::try_from(pixels.f_isnan()?.f_any()?)? != 0 {
        return Err(Error::NotANumber);
    }
    let bytes = pixels.f_add_scalar(1.0)?.f_mul_scalar(127.5)?.f_round()?.f_clamp(0.0, 255.0)?;
    let bytes =
        bytes.f_to_kind(Kind::Uint8)?.f_permute([0, 2, 3, 1])?.f_to_device(Device::Cpu)?.f_contiguous()?;
    (0..count).map(|f| Frame::new(size, Vec::try_from(bytes.f_get(f)?.f_view([-1])?)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ramp(size: Size) -> Frame {
        let bytes = size.rgb_bytes().unwrap();
        Frame::new(size, (0..bytes).map(|i| (i % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn known_values_and_layout() {
        let frame = Frame::new(Size { width: 2, height: 1 }, vec![0, 51, 255, 255, 102, 0]).unwrap();
        let pixels = to_tensor(&[frame], Device::Cpu).unwrap();
        assert_eq!(pixels.size(), [1, 3, 1, 2]);
        let values = Vec::<f32>::try_from(pixels.view([-1])).unwrap();
        for (got, expected) in values.iter().zip([-1.0, 1.0, -0.6, -0.2, 1.0, -1.0]) {
            assert!((got - expected).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn every_byte_survives_the_round_trip() {
        let frames = [ramp(Size { width: 16, height: 16 }), ramp(Size { width: 16, height: 16 })];
        assert_eq!(to_frames(&to_tensor(&frames, Device::Cpu).unwrap()).unwrap(), frames);
    }

    #[test]
    fn out_of_range_clamps_and_nan_is_refused() {
        let extremes = Tensor::from_slice(&[-9.0f32, 9.0, f32::INFINITY]).view([1, 3, 1, 1]);
        assert_eq!(to_frames(&extremes).unwrap()[0].rgb(), [0, 255, 255]);
        let broken = Tensor::from_slice(&[0.0f32, f32::NAN, 0.0]).view([1, 3, 1, 1]);
        assert!(matches!(to_frames(&broken), Err(Error::NotANumber)));
        assert!(matches!(to_frames(&broken.view([1, 1, 1, 3])), Err(Error::Shape { .. })));
    }

    proptest! {
        #[test]
        fn any_frames_survive_the_round_trip(
            (size, bytes) in (1u32..20, 1u32..20).prop_flat_map(|(width, height)| {
                let size = Size { width, height };
                (Just(size), proptest::collection::vec(any::<u8>(), (width * height * 3) as usize))
            })
        ) {
            let frames = [Frame::new(size, bytes).unwrap()];
            prop_assert_eq!(to_frames(&to_tensor(&frames, Device::Cpu).unwrap()).unwrap(), frames);
        }
    }
}
