//! What is good and what is not, and controls that must not be.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::server::resident;
use crate::viewers::Window;

/// Growth of a server's memory that is let pass, in bytes.
const GROWTH: f64 = 20e6;
/// The word that makes this program the control of [`Memory`].
pub(crate) const LEAK: &str = "leak";

/// Whether something is as it should be.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) good: bool,
    pub(crate) says: String,
}

impl Verdict {
    /// Of a control: good if it was found bad.
    pub(crate) fn inverted(self) -> Self {
        Self { good: !self.good, ..self }
    }
}

/// How evenly frames come where nothing disturbs.
pub(crate) struct Pace {
    p99: Vec<f64>,
}

impl Pace {
    pub(crate) fn of(windows: &[Window]) -> Self {
        Self { p99: windows.iter().map(Window::p99).collect() }
    }

    /// The median of the disturbed windows may lie above that of the others by as much as those differ among themselves.
    pub(crate) fn judge(&self, what: &str, windows: &[Window]) -> Verdict {
        let disturbed: Vec<f64> = windows.iter().map(Window::p99).collect();
        let (usual, spread, got) = (median(&self.p99), spread(&self.p99), median(&disturbed));
        let dropped: u64 = windows.iter().map(|window| window.dropped).sum();
        let says = format!(
            "{what}: p99 gap {} ms; alone {} ms, of a spread of {:.0} ms; {dropped} packets missed",
            listed(&disturbed),
            listed(&self.p99),
            spread * 1e3,
        );
        Verdict { good: got <= usual + spread, says }
    }
}

/// Bytes that a process holds, again and again.
pub(crate) struct Memory(pub(crate) Vec<f64>);

impl Memory {
    /// Of this very program as it leaks.
    pub(crate) fn of_a_leak() -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program).arg(LEAK).stdout(Stdio::null()).spawn().unwrap();
        let samples = (0..12).map(|_| {
            std::thread::sleep(Duration::from_millis(250));
            resident(child.id())
        });
        let samples = samples.collect();
        child.kill().unwrap();
        child.wait().unwrap();
        Self(samples)
    }

    /// The last third against the first.
    pub(crate) fn judge(&self, what: &str) -> Verdict {
        let third = self.0.len().div_ceil(3);
        let (first, last) = (median(&self.0[..third]), median(&self.0[self.0.len() - third..]));
        let growth = last - first;
        let says = format!(
            "{what}: {:.1} MB, later {:.1} MB, over {} samples; may grow by {:.0} MB",
            first / 1e6,
            last / 1e6,
            self.0.len(),
            GROWTH / 1e6
        );
        Verdict { good: growth <= GROWTH, says }
    }
}

/// Takes 16 MB a second until it is killed.
pub(crate) fn leak() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1u8; 4 << 20]);
        std::hint::black_box(&kept);
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The middle value; the lower of two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

fn spread(values: &[f64]) -> f64 {
    let [least, most] = [f64::min, f64::max].map(|pick| values.iter().copied().reduce(pick).unwrap());
    most - least
}

/// Seconds as milliseconds.
fn listed(values: &[f64]) -> String {
    values.iter().map(|value| format!("{:.0}", value * 1e3)).collect::<Vec<_>>().join(", ")
}
