//! Where to publish: a URL, a folder or a file, and how FFmpeg is told of it.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::Path;
use std::ptr;

use ffmpeg_next::{Dictionary, ffi};

use super::Interrupt;
use crate::Error;

/// Seconds that an HLS segment lasts at least; it ends at a keyframe.
const HLS_SECONDS: &str = "2";

/// Segments in an HLS playlist. As many again are kept for players that are behind; older ones are removed.
const HLS_SEGMENTS: &str = "6";

/// The playlist in an HLS folder.
const PLAYLIST: &str = "stream.m3u8";

/// Where a stream is published. What it prints leaves out whatever may be a secret: users, passwords, paths and queries.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: String,
    shown: String,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Rtmp,
    Srt,
    Rtsp,
    Hls,
    File(&'static str),
}

impl Target {
    /// Reads a target: `rtmp://`, `rtmps://`, `srt://` or `rtsp://`, a name ending in `.mp4`, `.mkv` or `.ts`, or a folder for
    /// HLS, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Target`] for anything else, for a file that is there already, for a folder that cannot be made, and where this
    /// FFmpeg was built without what it takes.
    pub fn parse(text: &str) -> Result<Self, Error> {
        super::initialise();
        let target = match text.split_once("://") {
            Some((scheme, rest)) => Self::of_url(text, scheme, rest)?,
            None => Self::of_path(text)?,
        };
        target.check_built()?;
        Ok(target)
    }

    fn of_url(url: &str, scheme: &str, rest: &str) -> Result<Self, Error> {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let refused =
            |shown: String, reason: &str| Err(Error::Target { target: shown, reason: reason.to_owned() });
        let way = match scheme {
            "rtmp" | "rtmps" => Way::Rtmp,
            "srt" => Way::Srt,
            "rtsp" => Way::Rtsp,
            // Where the scheme is wrong, what looks like the host may be anything.
            _ => {
                let known = "unknown scheme: expected rtmp, rtmps, srt, rtsp, a folder for HLS, or a .mp4, .mkv or .ts file";
                return refused(format!("{}://…", printable(scheme)), known);
            }
        };
        let shown = format!("{scheme}://{}/…", printable(host));
        if host.is_empty() {
            return refused(shown, "expected a host after ://");
        }
        if url.contains('\0') {
            return refused(shown, "holds a zero byte");
        }
        Ok(Self { url: url.to_owned(), shown, way })
    }

    fn of_path(text: &str) -> Result<Self, Error> {
        let path = Path::new(text);
        let refused = |reason: String| Error::Target { target: printable(text), reason };
        let extension =
            path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        let way = match extension.as_deref() {
            _ if path.is_dir() => Way::Hls,
            None if !text.is_empty() => Way::Hls,
            Some("mp4") => Way::File("mp4"),
            Some("mkv") => Way::File("matroska"),
            Some("ts") => Way::File("mpegts"),
            _ => {
                let expected = "expected a URL, a folder for HLS, or a name ending in .mp4, .mkv or .ts";
                return Err(refused(expected.to_owned()));
            }
        };
        // FFmpeg would take it for the pattern of the segments' names.
        if text.contains(['%', '\0']) {
            return Err(refused("a name with % or a zero byte is not taken".to_owned()));
        }
        match way {
            Way::Hls => std::fs::create_dir_all(path).map_err(|error| refused(error.to_string()))?,
            _ if path.exists() => return Err(refused("exists already".to_owned())),
            _ => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                    return Err(refused(format!("the folder {} does not exist", folder.display())));
                }
            }
        }
        // With a slash in front no part of a path can pass for a protocol. ("file:" would keep HLS from removing segments.)
        let path = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
        let path = if way == Way::Hls { path.join(PLAYLIST) } else { path };
        let url = path.to_str().ok_or_else(|| refused("the path is not UTF-8".to_owned()))?.to_owned();
        Ok(Self { url, shown: printable(text), way })
    }

    /// Whether FFmpeg was built with the muxer and the protocol.
    fn check_built(&self) -> Result<(), Error> {
        let lacks = |what: &str| {
            let reason = format!("this FFmpeg was built without {what}");
            Err(Error::Target { target: self.shown.clone(), reason })
        };
        let muxer = CString::new(self.muxer()).unwrap_or_default();
        // SAFETY: looks a name up in a fixed table.
        if unsafe { ffi::av_guess_format(muxer.as_ptr(), ptr::null(), ptr::null()) }.is_null() {
            return lacks(self.muxer());
        }
        let protocol = match self.way {
            // The muxer speaks it, over TCP.
            Way::Rtsp => "tcp",
            Way::Hls | Way::File(_) => "file",
            Way::Rtmp | Way::Srt => self.url.split(':').next().unwrap_or_default(),
        };
        if output_protocols().any(|name| name == protocol) { Ok(()) } else { lacks(protocol) }
    }

    /// Whether it is a file, which is begun once: a connection can be made again.
    pub fn is_file(&self) -> bool {
        matches!(self.way, Way::File(_))
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn muxer(&self) -> &'static str {
        match self.way {
            Way::Rtmp => "flv",
            Way::Srt => "mpegts",
            Way::Rtsp => "rtsp",
            Way::Hls => "hls",
            Way::File(muxer) => muxer,
        }
    }

    pub(super) fn protocol_options(&self) -> Dictionary<'static> {
        Dictionary::from_iter(match self.way {
            // FFmpeg trusts any certificate unless told not to.
            Way::Rtmp => &[("rtmp_live", "live"), ("tcp_nodelay", "1"), ("tls_verify", "1")][..],
            _ => &[],
        })
    }

    pub(super) fn muxer_options(&self) -> Dictionary<'static> {
        Dictionary::from_iter(match self.way {
            // They are at the front of the file, which a live stream cannot go back to.
            Way::Rtmp => &[("flvflags", "no_duration_filesize")][..],
            Way::Srt => &[],
            Way::Rtsp => &[("rtsp_transport", "tcp")],
            Way::Hls => &[
                ("hls_time", HLS_SECONDS),
                ("hls_list_size", HLS_SEGMENTS),
                ("hls_delete_threshold", HLS_SEGMENTS),
                // A server that starts again goes on where the list ends, so that players do not see numbers twice.
                ("hls_flags", "delete_segments+append_list+temp_file+independent_segments"),
            ],
            // Fragments, so that the file plays while it grows and after a crash.
            Way::File("mp4") => &[("movflags", "frag_keyframe+empty_moov+default_base_moof")],
            Way::File(_) => &[],
        })
    }

    /// What became of a call.
    pub(super) fn failed(&self, error: ffmpeg_next::Error, interrupt: &Interrupt) -> Error {
        let reason = match error {
            _ if interrupt.is_over() => "no answer in time".to_owned(),
            error => error.to_string(),
        };
        Error::Target { target: self.shown.clone(), reason }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn output_protocols() -> impl Iterator<Item = String> {
    let mut at = ptr::null_mut();
    std::iter::from_fn(move || {
        // SAFETY: walks a fixed table; the names are static.
        unsafe {
            let name = ffi::avio_enum_protocols(&mut at, 1);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_their_names_say_and_print_no_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name).display().to_string();
        for (text, way, shown) in [
            ("rtmp://a.example/live/KEY-1", Way::Rtmp, "rtmp://a.example/…"),
            ("rtmps://me:PASS@a.example:443/live/KEY-1", Way::Rtmp, "rtmps://a.example:443/…"),
            ("srt://a.example:9000?passphrase=SECRET", Way::Srt, "srt://a.example:9000/…"),
            ("rtsp://me:PA@SS@a.example/x", Way::Rtsp, "rtsp://a.example/…"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(
                (target.way, format!("{target}"), format!("{target:?}")),
                (way, shown.into(), shown.into())
            );
        }
        for (name, way) in [
            ("a.mp4", Way::File("mp4")),
            ("a.MKV", Way::File("matroska")),
            ("a.ts", Way::File("mpegts")),
            ("new/folder", Way::Hls),
        ] {
            let target = Target::parse(&inside(name)).unwrap();
            assert_eq!((target.way, target.to_string()), (way, inside(name)));
        }
        assert!(folder.path().join("new/folder").is_dir());
    }

    #[test]
    fn what_is_no_target_is_said_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("a.ts");
        std::fs::write(&there, "kept").unwrap();
        let there = there.to_str().unwrap().to_owned();
        for (text, needle) in [
            ("http://me:SECRET@a.example/x", "unknown scheme"),
            ("SECRET://x", "unknown scheme"),
            ("rtmp:///live/SECRET", "expected a host"),
            ("", "expected a URL"),
            ("a.avi", "expected a URL"),
            ("nowhere/a.mp4", "does not exist"),
            ("100%", "%"),
            (&there, "exists already"),
        ] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{text}: {error}");
            assert!(text.starts_with("SECRET") || !error.contains("SECRET"), "{error}");
        }
        assert_eq!(std::fs::read(&there).unwrap(), b"kept");
    }

    #[test]
    fn this_ffmpeg_has_what_is_promised() {
        let protocols: Vec<_> = output_protocols().collect();
        for needed in ["rtmp", "rtmps", "srt", "tcp", "file"] {
            assert!(protocols.iter().any(|name| name == needed), "{needed}: {protocols:?}");
        }
    }
}
