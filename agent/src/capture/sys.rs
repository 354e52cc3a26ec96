//! The only `unsafe` of the agent: mapping a BPF array into memory, and the grace period.
//! Knows sizes and file descriptors, nothing of what the words mean.
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// An mmapable BPF array, seen as 64-bit words. The kernel side writes while we read, hence atomics; relaxed ones,
/// because an epoch is only read after the grace period that ended its writers.
pub(crate) struct Mapped {
    words: &'static [AtomicU64],
}

impl Mapped {
    /// Maps `bytes` of the array behind `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED;
        // SAFETY: a fresh mapping chosen by the kernel; the result is checked.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: page-aligned, `bytes` long, never unmapped but by Drop, which ends the last borrow (&mut self);
        // any bit pattern is a valid AtomicU64.
        let words = unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), bytes / size_of::<u64>()) };
        Ok(Self { words })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.words
    }

    pub(crate) fn load(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Release);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, of the same length; nothing borrows `words` past self.
        unsafe { libc::munmap(self.words.as_ptr().cast_mut().cast(), size_of_val(self.words)) };
    }
}

/// Waits until no BPF program that started before the call still runs. Updating an array of maps does that by
/// contract (kernel/bpf/syscall.c, `maybe_wait_bpf_programs`); no program uses this one.
pub(crate) struct GracePeriod {
    outer: OwnedFd,
    inner: OwnedFd,
}

/// The fields of `union bpf_attr` for `BPF_MAP_CREATE` that are used here (include/uapi/linux/bpf.h).
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// As [`CreateAttr`], for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct UpdateAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads size_of::<T>() bytes of a live repr(C) value and what its addresses point to, which
    // the two callers keep alive over the call.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Creates a map with one 4-byte element.
fn create(map_type: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let inner_map_fd = inner.map_or(0, |fd| fd.as_raw_fd().cast_unsigned());
    let attr = CreateAttr { map_type, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0, inner_map_fd };
    let fd = i32::try_from(bpf(BPF_MAP_CREATE, &attr)?).map_err(io::Error::other)?;
    // SAFETY: a descriptor that the kernel has just given us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl GracePeriod {
    pub(crate) fn new() -> io::Result<Self> {
        let inner = create(BPF_MAP_TYPE_ARRAY, None)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, Some(&inner))?;
        Ok(Self { outer, inner })
    }

    /// Blocks for 9-11 ms on average, up to 91 ms on a saturated machine.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0u32, self.inner.as_raw_fd());
        let attr = UpdateAttr {
            map_fd: self.outer.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: std::ptr::from_ref(&key).addr() as u64,
            value: std::ptr::from_ref(&value).addr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &attr).map(drop)
    }
}
