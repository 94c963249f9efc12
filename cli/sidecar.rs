//! What lies beside a film: the log from which it can be computed again, and which blocks of the log the film shows.

use std::path::Path;

use acdit_runtime::Entry;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// `NAME.json`, beside `NAME.mp4`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    version: u32,
    /// Name of the world.
    pub(crate) world: String,
    /// Fingerprint of the weights.
    pub(crate) weights: String,
    #[serde(default)]
    pub(crate) session: String,
    pub(crate) frames_per_second: f64,
    /// The film's first block and the one after its last, by the numbers that they had.
    pub(crate) blocks: [u64; 2],
    /// What the film shows, in order.
    #[serde(default)]
    pub(crate) film: Vec<Run>,
    /// Why the recording ended before it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// From the session's beginning to the film's last block.
    pub(crate) log: Vec<Entry>,
}

/// Blocks of a film that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// How often the log went back before them: its lines `rewind`, `fork` and `restart`.
    pub(crate) turn: u64,
    /// The first and the one after the last.
    pub(crate) blocks: [u64; 2],
}

impl Run {
    pub(crate) fn has(&self, turn: u64, block: u64) -> bool {
        let [first, next] = self.blocks;
        self.turn == turn && (first..next).contains(&block)
    }
}

/// Adds a block to the runs of a film.
pub(crate) fn add(runs: &mut Vec<Run>, turn: u64, block: u64) {
    match runs.last_mut() {
        Some(run) if run.turn == turn && run.blocks[1] == block => run.blocks[1] += 1,
        _ => runs.push(Run { turn, blocks: [block, block + 1] }),
    }
}

impl Sidecar {
    /// Of a film of these runs, at least one; nothing is said yet of what was recorded.
    pub(crate) fn of<'a>(film: Vec<Run>, log: impl IntoIterator<Item = &'a Entry>) -> Self {
        let blocks = match (film.first(), film.last()) {
            (Some(first), Some(last)) => [first.blocks[0], last.blocks[1]],
            _ => [0, 0],
        };
        let mut entries: Vec<Entry> = log.into_iter().cloned().collect();
        let (mut turn, mut end) = (0, entries.len());
        for (entry, line) in entries.iter().zip(1..) {
            turn += u64::from(entry.turns());
            if let Entry::Block { block, .. } = entry
                && film.last().is_some_and(|run| run.turn == turn && run.blocks[1] == block + 1)
            {
                end = line;
            }
        }
        entries.truncate(end);
        let (world, weights, session) = Default::default();
        let (version, frames_per_second, error) = (VERSION, 0.0, None);
        Self { version, world, weights, session, frames_per_second, blocks, film, error, log: entries }
    }

    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Reads what [`Self::to_json`] gave.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let sidecar: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match sidecar.version {
            VERSION => Ok(sidecar),
            other => Err(format!("version {other}, expected {VERSION}")),
        }
    }
}

/// A name for a session's next recording: its id and the first number that is free.
pub(crate) fn free_name(folder: &Path, session: &str) -> std::io::Result<String> {
    for number in 1_u32.. {
        let name = format!("{session}-{number}");
        let taken = |extension: &str| folder.join(format!("{name}.{extension}")).try_exists();
        if !taken("mp4")? && !taken("json")? {
            return Ok(name);
        }
    }
    Err(std::io::Error::other("there are too many recordings"))
}

#[cfg(test)]
mod tests {
    use acdit_runtime::{Row, read_log};

    use super::*;

    #[test]
    fn runs_grow_while_blocks_follow_one_another() {
        let mut runs = Vec::new();
        for (turn, block) in [(0, 4), (0, 5), (0, 7), (1, 8), (1, 9), (2, 0)] {
            add(&mut runs, turn, block);
        }
        let run = |turn, first, next| Run { turn, blocks: [first, next] };
        assert_eq!(runs, [run(0, 4, 6), run(0, 7, 8), run(1, 8, 10), run(2, 0, 1)]);
        assert!(runs[0].has(0, 5) && !runs[0].has(0, 6) && !runs[0].has(1, 5));
    }

    #[test]
    fn the_log_ends_with_the_films_last_block() {
        let start = r#"{"type":"start","version":1,"dtype":"f32","device":"cpu","libtorch":"2.11.0","threads":1,
            "settings":{"sampling":{"steps":3,"guidance":1.0,"solver":"dpm++"},"window":3,"mode":"windowed","seed":5},"label":3}"#;
        let mut log = read_log(&start.replace('\n', " ")).unwrap();
        let block = |block| Entry::Block { block, hash: blake3::hash(b""), row: Row::ALONE };
        log.extend([block(0), block(1), block(2), Entry::Rewind { block: 1 }, block(1), block(2)]);
        let film = vec![Run { turn: 0, blocks: [1, 3] }, Run { turn: 1, blocks: [1, 2] }];
        let sidecar = Sidecar::of(film.clone(), &log);
        assert_eq!((sidecar.blocks, sidecar.log.len()), ([1, 2], 6));
        let text = String::from_utf8(sidecar.to_json().unwrap()).unwrap();
        let read = Sidecar::read(&text).unwrap();
        assert_eq!((read.film, read.log), (film, sidecar.log));
        assert!(Sidecar::read(&text.replace("\"version\":1,\"world\"", "\"version\":2,\"world\"")).is_err());
    }

    #[test]
    fn names_count_on() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(free_name(folder.path(), "main").unwrap(), "main-1");
        std::fs::write(folder.path().join("main-1.mp4"), "").unwrap();
        std::fs::write(folder.path().join("main-2.json"), "").unwrap();
        assert_eq!(free_name(folder.path(), "main").unwrap(), "main-3");
        assert_eq!(free_name(folder.path(), "main1").unwrap(), "main1-1");
    }
}
