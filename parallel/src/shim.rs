//! The functions of `shim.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};

use torch_sys::C_tensor;

/// A TCPStore of c10d.
#[repr(C)]
pub(crate) struct RawStore {
    _opaque: [u8; 0],
}

/// A process group of c10d.
#[repr(C)]
pub(crate) struct RawGroup {
    _opaque: [u8; 0],
}

/// A collective operation in flight.
#[repr(C)]
pub(crate) struct RawWork {
    _opaque: [u8; 0],
}

pub(crate) type Notify = extern "C" fn(context: *mut c_void, index: usize);

unsafe extern "C" {
    fn acdit_free_text(text: *mut c_char);
    pub(crate) fn acdit_store_open(
        host: *const c_char,
        port: u16,
        serve: bool,
        world: usize,
        timeout_ms: i64,
        out: *mut *mut RawStore,
    ) -> *mut c_char;
    pub(crate) fn acdit_store_free(store: *mut RawStore);
    pub(crate) fn acdit_group_connect(
        store: *const RawStore,
        address: *const c_char,
        interface: *const c_char,
        rank: c_int,
        world: c_int,
        timeout_ms: i64,
        out: *mut *mut RawGroup,
    ) -> *mut c_char;
    pub(crate) fn acdit_group_free(group: *mut RawGroup);
    pub(crate) fn acdit_group_sum(
        group: *mut RawGroup,
        tensor: *const C_tensor,
        out: *mut *mut RawWork,
    ) -> *mut c_char;
    pub(crate) fn acdit_group_broadcast(
        group: *mut RawGroup,
        tensor: *const C_tensor,
        root: c_int,
        out: *mut *mut RawWork,
    ) -> *mut c_char;
    pub(crate) fn acdit_work_wait(work: *mut RawWork) -> *mut c_char;
    pub(crate) fn acdit_work_free(work: *mut RawWork);
    pub(crate) fn acdit_watch_gradient(
        variable: *const C_tensor,
        notify: Notify,
        context: *mut c_void,
        index: usize,
    ) -> *mut c_char;
    pub(crate) fn acdit_unwatch_gradient(variable: *const C_tensor);
}

/// What a function of the shim returned, as a result: the first line of its text, since a backtrace may follow.
///
/// # Safety
/// `text` must be what one of them returned, and is not used again.
pub(crate) unsafe fn checked(text: *mut c_char) -> Result<(), String> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: it is a C string that the shim allocated for its caller
    let message =
        unsafe { CStr::from_ptr(text) }.to_string_lossy().lines().next().unwrap_or_default().to_owned();
    // SAFETY: as above
    unsafe { acdit_free_text(text) };
    Err(message)
}
