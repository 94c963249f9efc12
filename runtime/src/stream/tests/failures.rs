//! Stages that fail, and what it costs.

use super::*;

/// Fails the calls whose numbers are listed, counted from one.
fn failing<T>(
    calls: &'static [usize],
    mut work: impl FnMut() -> Result<T>,
    counter: &AtomicUsize,
) -> Result<T> {
    let call = counter.fetch_add(1, Ordering::Relaxed) + 1;
    if calls.contains(&call) { Err(Error::Input(format!("fault in call {call}"))) } else { work() }
}

#[test]
fn a_failed_step_changes_nothing_and_the_stream_goes_on() {
    let calls = AtomicUsize::new(0);
    let step_batch: StepBatch = Box::new(move |world, batch| match calls.fetch_add(1, Ordering::Relaxed) {
        2 => batch.iter().map(|_| Err(Error::Diverged { block: 2 })).collect(),
        _ => step(world, batch),
    });
    let engine = start(Stages { step_batch, ..stages() });
    let stream = open(&engine, 6);
    stream.handle.viewers(1, 0);
    let packets = take(&stream, 8);
    assert_eq!(payloads(&packets), alone(6, &[0; 4]));
    assert_eq!(packets.iter().map(|packet| packet.frame).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    let state = wait(&stream, |state| state.block >= 4);
    assert_eq!(state.failures, 1);
    assert!(state.failure.unwrap().to_string().starts_with("denoise: block 2 is not finite"));
}

#[test]
fn steps_that_keep_failing_pause_the_stream() {
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = broken.clone();
    let step_batch: StepBatch = Box::new(move |world, batch| match switch.load(Ordering::Relaxed) {
        true => batch.iter().map(|_| Err(Error::Diverged { block: 0 })).collect(),
        false => step(world, batch),
    });
    let engine = start(Stages { step_batch, ..stages() });
    let stream = open(&engine, 6);
    stream.handle.viewers(1, 0);
    let state = wait(&stream, |state| state.paused);
    assert_eq!((state.failures, state.block, state.gave_up), (3, 0, Some(crate::Stage::Denoise)));
    broken.store(false, Ordering::Relaxed);
    assert_eq!(stream.handle.apply(Control::Resume), Ok(0));
    assert_eq!(wait(&stream, |state| state.block == 1).gave_up, None);
    assert_eq!(payloads(&take(&stream, 2)), alone(6, &[0]));
}

#[test]
fn a_block_that_cannot_be_decoded_is_lost_and_the_next_begins_with_a_keyframe() {
    let calls = AtomicUsize::new(0);
    // The first call is the warm-up, so this is the second block.
    let decode: Decode = Box::new(move |latents| failing(&[3], || show(latents), &calls));
    let engine = start(Stages { decode, ..stages() });
    let stream = open(&engine, 6);
    stream.handle.viewers(1, 0);
    let packets = take(&stream, 6);
    assert_eq!(packets.iter().map(|p| p.frame).collect::<Vec<_>>(), [0, 1, 4, 5, 6, 7]);
    assert_eq!(
        packets.iter().map(|p| p.keyframe).collect::<Vec<_>>(),
        [true, false, true, false, false, false]
    );
    let expected = alone(6, &[0; 4]);
    assert!(packets.iter().all(|packet| packet.payload == expected[packet.frame as usize]));
    assert_eq!(
        wait(&stream, |state| state.failures == 1).failure.unwrap().to_string(),
        "decode: fault in call 3"
    );
}

#[test]
fn an_encoder_that_fails_is_opened_anew() {
    let (calls, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let openings = opened.clone();
    let open: OpenH264 = Box::new(move || {
        openings.fetch_add(1, Ordering::Relaxed);
        let calls = calls.clone();
        Ok(Box::new(move |frame: &Frame, keyframe| {
            failing(&[2], || Ok((frame.rgb().to_vec(), keyframe)), &calls)
        }) as EncodeH264)
    });
    let engine = start(stages());
    let stream = engine.open_with(&config(&engine, 6), Beginning::New, None, Some(open)).unwrap();
    stream.handle.viewers(1, 0);
    let packets = take(&stream, 3);
    assert_eq!(
        packets.iter().map(|p| (p.frame, p.keyframe)).collect::<Vec<_>>(),
        [(0, true), (2, true), (3, false)]
    );
    assert_eq!(
        wait(&stream, |state| state.failures == 1).failure.unwrap().to_string(),
        "encode: fault in call 2"
    );
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[test]
fn an_encoder_that_does_not_open_refuses_the_stream() {
    let engine = start(stages());
    let open: OpenH264 = Box::new(|| Err(Error::Input("no encoder".to_owned())));
    let error = engine.open_with(&config(&engine, 0), Beginning::New, None, Some(open)).err().unwrap();
    assert_eq!(error.to_string(), "no encoder");
    open_and_show(&engine);
}

#[test]
fn pictures_that_keep_failing_pause_the_stream() {
    let calls = AtomicUsize::new(0);
    let decode: Decode = Box::new(move |latents| failing(&[2, 3, 4], || show(latents), &calls));
    let engine = start(Stages { decode, ..stages() });
    let stream = open(&engine, 6);
    stream.handle.viewers(1, 0);
    let state = wait(&stream, |state| state.gave_up == Some(crate::Stage::Decode));
    assert_eq!((state.failures, state.paused), (3, true));
    let next = stream.handle.apply(Control::Resume).unwrap();
    let packets = take(&stream, 2);
    assert!(packets[0].keyframe && packets[0].block >= 3 && packets[0].block <= next);
}

/// tch panics where libtorch throws.
#[test]
fn a_panic_of_the_decoder_costs_one_block_of_one_stream() {
    let calls = AtomicUsize::new(0);
    let decode: Decode =
        Box::new(move |latents| failing(&[3], || show(latents), &calls).map_err(|error| panic!("{error}")));
    let engine = start(Stages { decode, ..stages() });
    let stream = open(&engine, 6);
    stream.handle.viewers(1, 0);
    assert_eq!(take(&stream, 4).iter().map(|p| p.frame).collect::<Vec<_>>(), [0, 1, 4, 5]);
    let failure = wait(&stream, |state| state.failures == 1).failure.unwrap();
    assert_eq!(failure.to_string(), "decode: it could not be computed: fault in call 3");
    open_and_show(&engine);
}

#[test]
fn a_panic_of_the_encoder_for_real_frames_refuses_them() {
    let encode_frames: EncodeFrames = Box::new(|_| panic!("out of memory"));
    let engine = start(Stages { encode_frames, ..stages() });
    let stream = open(&engine, 6);
    for control in
        [Control::Inject { frames: vec![picture(1)] }, Control::Continue { frames: vec![picture(1); 2] }]
    {
        assert_eq!(stream.handle.apply(control).unwrap_err().code, "failed");
    }
    stream.handle.viewers(1, 0);
    assert_eq!(payloads(&take(&stream, 4)), alone(6, &[0; 2]), "nothing has changed");
}

#[test]
fn injected_frames_outlive_a_step_that_fails_for_another_reason() {
    let calls = AtomicUsize::new(0);
    let step_batch: StepBatch = Box::new(move |world, batch| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => batch.iter().map(|_| Err(Error::Library { reason: "out of memory".to_owned() })).collect(),
        _ => step(world, batch),
    });
    let engine = start(Stages { step_batch, ..stages() });
    let stream = open(&engine, 6);
    assert_eq!(stream.handle.apply(Control::Inject { frames: vec![picture(51)] }), Ok(0));
    stream.handle.viewers(1, 0);
    let packets = take(&stream, 4);
    assert_eq!(
        packets.iter().map(|p| (p.block, p.injected)).collect::<Vec<_>>(),
        [(0, true), (0, false), (1, false), (1, false)]
    );
    assert_eq!(packets[0].payload, show(&read(&[picture(51)]).unwrap()).unwrap()[0].rgb());
}
