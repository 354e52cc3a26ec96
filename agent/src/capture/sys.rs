//! The only `unsafe` of the agent: mapping a BPF array into memory, batches of a hash, huge pages, the grace period, who
//! is on an interface's hook, the clock's state, the capabilities of what we start, and the heap.
//! Knows sizes and file descriptors, nothing of what the words mean.
use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
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

/// Below, the alignment may cost what huge pages save.
const HUGE_WORTH: usize = 4 << 20;

/// Asks for huge pages where memory is yet to be written: for a million flows the page faults alone take 20 ms. Only
/// advice, so a kernel that has none to give is none the worse.
pub(crate) fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    if size_of_val(memory) < HUGE_WORTH {
        return;
    }
    // SAFETY: takes no memory.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(HUGE_WORTH);
    let range = memory.as_mut_ptr_range();
    let offset = range.start.addr().next_multiple_of(page) - range.start.addr();
    let (start, bytes) = (range.start.wrapping_byte_add(offset), size_of_val(memory) - offset);
    // SAFETY: whole pages within memory of the caller's, whose contents the advice does not change.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
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

/// As [`CreateAttr`], for the batch commands.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
/// Elements of one batch. A bucket must fit whole; buckets are as many as elements, so they hold a few.
const BATCH: usize = 4096;

/// Calls `each` with the words of every key and of its values (one value after another for a per-CPU map). One system
/// call for thousands of elements, where one by one takes two calls each. Needs Linux 5.6.
pub(crate) fn for_each(
    map: BorrowedFd<'_>,
    key_words: usize,
    value_words: usize,
    mut each: impl FnMut(&[u64], &[u64]),
) -> io::Result<()> {
    let (mut keys, mut values) = (vec![0u64; BATCH * key_words], vec![0u64; BATCH * value_words]);
    // A bucket number for hash maps, written and read by the kernel only.
    let (mut position, mut next) = (0u64, 0u64);
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { std::ptr::from_mut(&mut position).expose_provenance() as u64 },
            out_batch: std::ptr::from_mut(&mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: BATCH as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        let last = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            // The end; what was found on the way is valid.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let found = (attr.count as usize).min(BATCH);
        for (key, value) in keys.chunks_exact(key_words).zip(values.chunks_exact(value_words)).take(found) {
            each(key, value);
        }
        if last {
            return Ok(());
        }
        (position, first) = (next, false);
    }
}

/// Deletes keys that are in the map.
pub(crate) fn delete(map: BorrowedFd<'_>, key_words: usize, keys: &[u64]) -> io::Result<()> {
    for keys in keys.chunks(BATCH * key_words) {
        let mut attr = BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr().expose_provenance() as u64,
            values: 0,
            count: (keys.len() / key_words) as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        bpf(BPF_MAP_DELETE_BATCH, &mut attr)?;
    }
    Ok(())
}

/// As [`CreateAttr`], for `BPF_PROG_QUERY`.
#[repr(C)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// As many as the kernel lets hang there (kernel/bpf/mprog.c, `BPF_MPROG_MAX`).
const TCX_MAX: usize = 64;

/// Ids of the links on an interface's TCX hook in this network namespace; 0 for a program without a link. aya's query
/// needs CAP_SYS_ADMIN and leaves the links out.
pub(crate) fn tcx_links(ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
    tcx(ifindex, egress).map(|(_, links)| links)
}

/// As [`tcx_links`], of the programs.
pub(crate) fn tcx_programs(ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
    tcx(ifindex, egress).map(|(programs, _)| programs)
}

/// Programs and links, in the order in which they see a packet.
fn tcx(ifindex: u32, egress: bool) -> io::Result<(Vec<u32>, Vec<u32>)> {
    let (mut programs, mut links) = ([0u32; TCX_MAX], [0u32; TCX_MAX]);
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: if egress { BPF_TCX_EGRESS } else { BPF_TCX_INGRESS },
        query_flags: 0,
        attach_flags: 0,
        prog_ids: programs.as_mut_ptr().expose_provenance() as u64,
        count: TCX_MAX as u32,
        padding: 0,
        prog_attach_flags: 0,
        link_ids: links.as_mut_ptr().expose_provenance() as u64,
        link_attach_flags: 0,
        revision: 0,
    };
    match bpf(BPF_PROG_QUERY, &mut attr) {
        Ok(_) => {
            let count = (attr.count as usize).min(TCX_MAX);
            Ok((programs[..count].to_vec(), links[..count].to_vec()))
        }
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((Vec::new(), Vec::new())),
        Err(error) => Err(error),
    }
}

/// Whether the kernel's clock is disciplined (adjtimex(2)).
pub(crate) fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: integers, of which zeros are valid ones; no mode is set, so that the call only reads the clock.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a whole `timex` to one that lives over the call.
    match unsafe { libc::adjtimex(&raw mut clock) } {
        -1 => Err(io::Error::last_os_error()),
        state => Ok(state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0),
    }
}

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// As [`CreateAttr`], for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What is pinned there. Aya finds a pinned program's descriptor, and that of the BTF that it was attached by, by id, which
/// wants CAP_SYS_ADMIN.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let pathname = path.as_ptr().expose_provenance() as u64;
    let mut attr = ObjectAttr { pathname, bpf_fd: 0, file_flags: 0 };
    let fd = i32::try_from(bpf(BPF_OBJ_GET, &mut attr)?).map_err(io::Error::other)?;
    // SAFETY: a descriptor that the kernel has just given us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Words of `struct bpf_prog_info` up to and with `recursion_misses` (include/uapi/linux/bpf.h), which aya leaves out.
const INFO_WORDS: usize = 27;

/// How often the kernel did not run a program because it was already running on that CPU.
pub(crate) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0u64; INFO_WORDS];
    let mut attr = InfoAttr {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr().expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[INFO_WORDS - 1])
}

/// What this thread and those that it starts run from now on, such as a credential_process, gets none of the capabilities
/// that the service manager gave us: of the ambient set (capabilities(7)), which we need no longer.
pub(crate) fn clear_ambient_capabilities() -> io::Result<()> {
    // SAFETY: takes and returns numbers only.
    match unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives the system back what loading the programs took, mostly for the kernel's types: 20 MB that glibc would keep.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes and returns numbers only, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes size_of::<T>() bytes of a live repr(C) value and of the buffers its addresses
    // point to, which the callers own, size for the map's keys and values, and keep alive over the call.
    match unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Creates a map with one 4-byte element.
fn create(map_type: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let inner_map_fd = inner.map_or(0, |fd| fd.as_raw_fd().cast_unsigned());
    let mut attr = CreateAttr { map_type, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0, inner_map_fd };
    let fd = i32::try_from(bpf(BPF_MAP_CREATE, &mut attr)?).map_err(io::Error::other)?;
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
        let mut attr = UpdateAttr {
            map_fd: self.outer.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: std::ptr::from_ref(&key).expose_provenance() as u64,
            value: std::ptr::from_ref(&value).expose_provenance() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}
