//! Event files, which TensorBoard draws while a run goes on.
//!
//! A file is a sequence of records (TensorFlow's `record_writer.h`): length u64, its checksum, data, its checksum, all little
//! endian; a checksum is a CRC-32C, rotated and shifted so that a checksum of a checksum differs. The data are `Event`
//! messages of `event.proto`, of which few fields are used: written here by hand, since they are fewer than a code generator
//! needs lines.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;

/// An event file that is being written.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Begins a file of its own in `folder`: TensorBoard reads those of a folder as one run, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn create(folder: &Path) -> Result<Self, Error> {
        let seconds = wall_time();
        // the name's tail tells apart two files of one second
        let name = format!("events.out.tfevents.{:010}.{}", seconds as u64, std::process::id());
        let path = folder.join(name);
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut events = Self { path, file };
        events.write(&event(seconds, 0, &bytes_field(3, b"brain.Event:2")))?;
        Ok(events)
    }

    /// Appends values of `step`, by the name of their curve.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<(), Error> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            summary.extend(scalar(tag, value as f32));
        }
        self.write(&event(wall_time(), step, &bytes_field(5, &summary)))
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.file.write_all(&record(data)).map_err(|e| Error::io(&self.path, e))
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// `Event { wall_time: 1, step: 2, … }` with one more field, as it stands.
fn event(wall_time: f64, step: u64, field: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(wall_time.to_le_bytes());
    event.push(2 << 3);
    event.extend(varint(step));
    event.extend(field);
    event
}

/// `Summary { value: 1 = Value { tag: 1, simple_value: 2 } }`; the values of a summary stand one behind the other.
fn scalar(tag: &str, value: f32) -> Vec<u8> {
    let mut entry = bytes_field(1, tag.as_bytes());
    entry.push(2 << 3 | 5);
    entry.extend(value.to_le_bytes());
    bytes_field(1, &entry)
}

/// A field of a message that holds text, bytes or a message.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    field.extend(varint(bytes.len() as u64));
    field.extend(bytes);
    field
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

fn checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_the_reference_writer() {
        // by tensorboard 2.21's RecordWriter: Event(wall_time=1.5, step=300, summary=[loss = 0.25, rate = -2])
        let expected = [
            0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0x70, 0x16, 0x4a, 0x09, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0xf8, 0x3f, 0x10, 0xac, 0x02, 0x2a, 0x1a, 0x0a, 0x0b, 0x0a, 0x04, 0x6c, 0x6f,
            0x73, 0x73, 0x15, 0x00, 0x00, 0x80, 0x3e, 0x0a, 0x0b, 0x0a, 0x04, 0x72, 0x61, 0x74, 0x65, 0x15,
            0x00, 0x00, 0x00, 0xc0, 0x62, 0x80, 0xf9, 0x0c,
        ];
        let summary = [scalar("loss", 0.25), scalar("rate", -2.0)].concat();
        assert_eq!(record(&event(1.5, 300, &bytes_field(5, &summary))), expected);
    }

    #[test]
    fn a_file_begins_with_its_version_and_holds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path()).unwrap();
        events.scalars(7, [("loss", 0.5), ("rate", 1e-3)]).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let mut rest = &bytes[..];
        let mut contents = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], checksum(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], checksum(data));
            contents.push(data);
            rest = &rest[16 + length..];
        }
        let [version, scalars] = contents[..] else { panic!("{} records", contents.len()) };
        assert!(version.ends_with(b"brain.Event:2"));
        assert!(scalars.windows(4).any(|part| part == 0.5f32.to_le_bytes()));
        let missing = Events::create(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
    }
}
