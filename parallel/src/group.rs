//! The processes of a run, and what they do together.

use std::ffi::{CString, c_int};
use std::net::UdpSocket;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tch::{Device, Tensor};

use crate::shim::{self, RawGroup, RawWork};
use crate::{Error, Place};

/// How long processes wait for one another: longer than the slowest of them loads its data or process 0 writes a checkpoint.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// Names the network interface to listen on, as in PyTorch.
const INTERFACE: &str = "GLOO_SOCKET_IFNAME";

/// The processes that train together. All must make the same calls in the same order; each call takes effect in place and ends in an
/// error once another process is gone, at the latest after the group's timeout.
///
/// Tensors on a GPU travel through the CPU's memory. Clones are handles to one group.
#[derive(Debug, Clone)]
pub struct Group {
    rank: usize,
    world: usize,
    local_rank: usize,
    gloo: Option<Arc<Gloo>>,
}

impl Group {
    /// A group of this process alone, whose calls do nothing.
    pub fn alone() -> Self {
        Self { rank: 0, world: 1, local_rank: 0, gloo: None }
    }

    /// The group that a launcher has started; of this process alone if none has.
    ///
    /// # Errors
    /// As [`Place::from_env`] and [`Group::connect`].
    pub fn from_env() -> Result<Self, Error> {
        match Place::from_env()? {
            Some(place) => Self::connect(&place, TIMEOUT),
            None => Ok(Self::alone()),
        }
    }

    /// Meets the other processes; `timeout` holds for this and for every call later on.
    ///
    /// # Errors
    /// [`Error::NotMet`].
    pub fn connect(place: &Place, timeout: Duration) -> Result<Self, Error> {
        let gloo = Gloo::connect(place, timeout).map_err(|reason| {
            let store = format!("{}:{}", place.store.0, place.store.1);
            Error::NotMet { rank: place.rank, world: place.world, store, reason }
        })?;
        let Place { rank, world, local_rank, .. } = *place;
        Ok(Self { rank, world, local_rank, gloo: Some(Arc::new(gloo)) })
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// All processes.
    pub fn world(&self) -> usize {
        self.world
    }

    /// This process among those of its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Whether this process is the one that writes and speaks for all.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// Begins to replace `tensor` by its sum over all processes; it must not be read before [`Pending::wait`].
    ///
    /// # Errors
    /// [`Error::Lost`]; [`Error::Torch`] for a tensor that is not contiguous.
    pub fn start_sum(&self, tensor: &Tensor) -> Result<Pending, Error> {
        self.start(tensor, |gloo, tensor, out| {
            // SAFETY: the group lives as long as `gloo`, which is locked, and `tensor` is a live tensor
            unsafe { shim::checked(shim::acdit_group_sum(gloo, tensor, out)) }
        })
    }

    /// Replaces `tensor` by its mean over all processes.
    ///
    /// # Errors
    /// As [`Group::start_sum`].
    pub fn average(&self, tensor: &Tensor) -> Result<(), Error> {
        self.start_sum(tensor)?.wait()?;
        let _ = tch::no_grad(|| tensor.shallow_clone().f_div_scalar_(self.world as f64))?;
        Ok(())
    }

    /// The mean of each number over all processes.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn mean<const N: usize>(&self, numbers: [f64; N]) -> Result<[f64; N], Error> {
        let tensor = Tensor::from_slice(&numbers);
        self.average(&tensor)?;
        let mut mean = [0.0; N];
        tensor.f_copy_data(&mut mean, N)?;
        Ok(mean)
    }

    /// Whether all processes have the same bytes; they must have as many.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn agree(&self, bytes: &[u8]) -> Result<bool, Error> {
        let theirs = Tensor::from_slice(bytes);
        self.broadcast(&theirs)?;
        let differs = theirs != Tensor::from_slice(bytes);
        Ok(self.mean([f64::from(u8::from(differs))])? == [0.0])
    }

    /// Of `rows`, (N, …), those of this process: from its rank on, every how many-th there are processes.
    pub fn rows_of(&self, rows: &Tensor) -> Tensor {
        if self.world == 1 {
            return rows.shallow_clone();
        }
        rows.slice(0, self.rank as i64, None, self.world as i64).contiguous()
    }

    /// Replaces `tensor` by that of process 0.
    ///
    /// # Errors
    /// As [`Group::start_sum`].
    pub fn broadcast(&self, tensor: &Tensor) -> Result<(), Error> {
        self.start(tensor, |gloo, tensor, out| {
            // SAFETY: as in `start_sum`
            unsafe { shim::checked(shim::acdit_group_broadcast(gloo, tensor, 0, out)) }
        })?
        .wait()
    }

    /// Returns once all processes have come here.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn barrier(&self) -> Result<(), Error> {
        self.start_sum(&Tensor::from_slice(&[0f32]))?.wait()
    }

    fn start(
        &self,
        tensor: &Tensor,
        call: impl Fn(*mut RawGroup, *const torch_sys::C_tensor, *mut *mut RawWork) -> Result<(), String>,
    ) -> Result<Pending, Error> {
        let mut pending = Pending { group: self.clone(), work: ptr::null_mut(), through: None };
        let Some(gloo) = &self.gloo else { return Ok(pending) };
        if !tensor.is_contiguous() {
            return Err(Error::Torch("only contiguous tensors travel between processes".into()));
        }
        let travels = tensor.f_to_device(Device::Cpu)?;
        let raw = gloo.raw.lock().unwrap_or_else(PoisonError::into_inner);
        call(*raw, travels.as_ptr(), &mut pending.work).map_err(|reason| self.lost(reason))?;
        if tensor.device() != Device::Cpu {
            pending.through = Some((travels, tensor.shallow_clone()));
        }
        Ok(pending)
    }

    fn lost(&self, reason: String) -> Error {
        if let Some(gloo) = &self.gloo {
            gloo.broken.store(true, Ordering::Relaxed);
        }
        Error::Lost { rank: self.rank, world: self.world, reason }
    }
}

/// An operation on a tensor that has begun.
#[derive(Debug)]
#[must_use = "the tensor is undefined until the operation has been waited for"]
pub struct Pending {
    group: Group,
    /// Null in a group of one.
    work: *mut RawWork,
    /// A copy in the CPU's memory, and the tensor that it is copied to in the end.
    through: Option<(Tensor, Tensor)>,
}

// SAFETY: c10d's work objects are made to be waited for on any thread
unsafe impl Send for Pending {}

impl Pending {
    /// Returns once the tensor is what the operation makes of it.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn wait(mut self) -> Result<(), Error> {
        if self.work.is_null() {
            return Ok(());
        }
        // SAFETY: the work is freed by `drop` only
        unsafe { shim::checked(shim::acdit_work_wait(self.work)) }
            .map_err(|reason| self.group.lost(reason))?;
        if let Some((copy, mut tensor)) = self.through.take() {
            tch::no_grad(|| tensor.f_copy_(&copy))?;
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.work.is_null() {
            // SAFETY: made by the shim, and used no more; while it runs, c10d keeps it and its tensor alive
            unsafe { shim::acdit_work_free(self.work) };
        }
    }
}

/// c10d's process group over TCP.
#[derive(Debug)]
struct Gloo {
    /// Locked, since c10d numbers the calls without a lock of its own.
    raw: Mutex<*mut RawGroup>,
    broken: AtomicBool,
}

// SAFETY: the group is bound to no thread, and used by one at a time
unsafe impl Send for Gloo {}
// SAFETY: as above
unsafe impl Sync for Gloo {}

impl Gloo {
    fn connect(place: &Place, timeout: Duration) -> Result<Self, String> {
        let (host, port) = (place.store.0.as_str(), place.store.1);
        let text = |text: &str| CString::new(text).map_err(|_| format!("{text:?} is no name"));
        let number = |number: usize| c_int::try_from(number).map_err(|_| format!("{number} processes"));
        let (rank, world) = (number(place.rank)?, number(place.world)?);
        let interface = std::env::var(INTERFACE).ok().map(|name| text(&name)).transpose()?;
        let timeout = timeout.as_millis().try_into().unwrap_or(i64::MAX);
        let serve = place.keeps_store && place.rank == 0;
        let awaited = if place.keeps_store { place.world } else { 0 };
        let name = text(host)?;
        let (mut store, mut raw) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: `name` lives until the call returns
        unsafe {
            let opened = shim::acdit_store_open(name.as_ptr(), port, serve, awaited, timeout, &mut store);
            shim::checked(opened)?;
        }
        // only now, when the host answers, its name certainly has an address
        let address = address_towards(host, port).map_err(|e| format!("{host}: {e}"));
        let connected = address.and_then(|address| text(&address)).and_then(|address| {
            let interface = interface.as_ref().map_or(ptr::null(), |name| name.as_ptr());
            // SAFETY: the store is open, both strings live until the call returns, and `interface` may be null
            unsafe {
                shim::checked(shim::acdit_group_connect(
                    store,
                    address.as_ptr(),
                    interface,
                    rank,
                    world,
                    timeout,
                    &mut raw,
                ))
            }
        });
        // SAFETY: opened above; the group has a handle of its own
        unsafe { shim::acdit_store_free(store) };
        connected?;
        Ok(Self { raw: Mutex::new(raw), broken: AtomicBool::new(false) })
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // The group's own end waits for operations in flight. Where another process hangs, those end by their timeouts only, and this
        // process is about to end anyway.
        if !self.broken.load(Ordering::Relaxed) {
            let raw = self.raw.get_mut().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: made by the shim, and this was the last handle
            unsafe { shim::acdit_group_free(*raw) };
        }
    }
}

/// The address of this machine that a packet to `host` would come from. Nothing is sent.
fn address_towards(host: &str, port: u16) -> std::io::Result<String> {
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?;
    let mut last = std::io::Error::other("the name has no address");
    for address in addresses {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        match UdpSocket::bind(any)
            .and_then(|socket| socket.connect(address).and_then(|()| socket.local_addr()))
        {
            Ok(own) => return Ok(own.ip().to_string()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
