//! Stacks for fibers, each behind a guard; and what is said when one of them is not large enough.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use corosensei::stack::{Stack as CoroutineStack, StackPointer};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// What lies below each stack, and may not be touched: enough for the frames of C code, which, other
/// than Rust's, need not touch every page on their way down.
const GUARD: usize = 16 * 1024;

/// Address space for a stack; memory is used as far down as it is touched.
#[derive(Debug)]
pub(crate) struct Stack {
    /// The lowest address, that of the guard.
    limit: NonZeroUsize,
    /// With the guard, in bytes.
    length: usize,
}

impl Stack {
    /// A stack of this size at least, in bytes. `OutOfMemory` when the process has no address space
    /// left, or as many mappings as it may (`vm.max_map_count`).
    pub(crate) fn new(size: usize) -> io::Result<Stack> {
        let page = rustix::param::page_size();
        let length = size.max(page).checked_next_multiple_of(page);
        let length = length.and_then(|size| size.checked_add(GUARD.next_multiple_of(page)));
        let length = length.filter(|length| *length <= isize::MAX as usize);
        let length = length.ok_or(io::ErrorKind::OutOfMemory)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Since Linux 6.7 no huge page, of which most would go to waste, is made of a stack.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
        // SAFETY: a new mapping, at an address of the system's choice, changes no other memory.
        let limit = unsafe { mmap_anonymous(ptr::null_mut(), length, access, flags)? };
        let limit = NonZeroUsize::new(limit as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let stack = Stack { limit, length };
        stack.protect(GUARD.next_multiple_of(page))?;
        Ok(stack)
    }

    fn protect(&self, guard: usize) -> io::Result<()> {
        let bottom = self.limit.get() as *mut c_void;
        // A guard of this kind, which Linux has since 6.13, splits no mapping in two, so that many
        // stacks side by side are one mapping: [madvise(2)].
        //
        // SAFETY: these are the lowest pages of a mapping that is this stack's alone, and that
        // nobody has used yet.
        if unsafe { libc::madvise(bottom, guard, MADV_GUARD_INSTALL) } == 0 {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { mprotect(bottom, guard, MprotectFlags::empty())? };
        Ok(())
    }

    pub(super) fn bounds(&self) -> Bounds {
        let guard = GUARD.next_multiple_of(rustix::param::page_size());
        Bounds { limit: self.limit.get(), size: self.length - guard }
    }
}

/// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html)
const MADV_GUARD_INSTALL: c_int = 102;

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this stack's alone. Whoever runs on it owns it, and drops it only
        // when it has ended (see `sys/fiber.rs`).
        let _ = unsafe { munmap(self.limit.get() as *mut c_void, self.length) };
    }
}

/// Drops many at a time. Those made one after the other are most often neighbours, which one call
/// gives back together.
pub(crate) fn give_back(stacks: impl Iterator<Item = Stack>) {
    let mut ranges: Vec<_> = stacks
        .map(|stack| {
            let stack = ManuallyDrop::new(stack);
            stack.limit.get()..stack.limit.get() + stack.length
        })
        .collect();
    ranges.sort_unstable_by_key(|range| range.start);
    for neighbours in ranges.chunk_by(|one, next| one.end == next.start) {
        let (start, end) = (neighbours[0].start, neighbours[neighbours.len() - 1].end);
        // SAFETY: as in `drop`, which none of these stacks comes to; nothing else is between them.
        let _ = unsafe { munmap(start as *mut c_void, end - start) };
    }
}

// SAFETY: below its usable part, which is a page at least, is a guard that no access survives; the
// limits are those of pages, and so aligned. The addresses stay the same as long as it lives.
unsafe impl CoroutineStack for Stack {
    fn base(&self) -> StackPointer {
        self.limit.saturating_add(self.length)
    }

    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// Where a stack is, and how large, for the signal handler to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The lowest address, that of the guard.
    limit: usize,
    /// Without the guard, in bytes.
    size: usize,
}

thread_local! {
    // Neither made nor dropped by any code, so that a signal handler may look at it.
    static RUNS_ON: Cell<Bounds> = const { Cell::new(Bounds { limit: 0, size: 0 }) };
}

impl Bounds {
    /// The address above the highest one.
    pub(super) fn base(self) -> usize {
        self.limit + GUARD.next_multiple_of(rustix::param::page_size()) + self.size
    }

    /// Tells the thread that it is about to run on this stack, so that an overflow is recognized.
    pub(super) fn enter(self) {
        RUNS_ON.set(self);
    }
}

/// Prepares a thread for stacks that overflow: whoever touches a guard ends the process, as with
/// any thread's stack, but not without a word on which stack it was.
pub(crate) fn expect_overflow() {
    provide_signal_stack();
    PREVIOUS.get_or_init(|| {
        // SAFETY: a `sigaction` of zeros is a valid one. The handler has the signature that
        // SA_SIGINFO asks for, and calls nothing but what signal-safety(7) allows.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous = action;
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &action, &mut previous);
            Previous(previous)
        }
    });
}

/// What was to be done about a `SIGSEGV` before.
struct Previous(libc::sigaction);

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system passes a valid `siginfo_t`, and for this signal it holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let Bounds { limit, size } = RUNS_ON.get();
    if size > 0 && (limit..limit + GUARD).contains(&address) {
        overflowed(size);
    }
    // Somebody else's fault: for whoever looked after it before.
    let previous = PREVIOUS.get().map(|previous| previous.0);
    match previous {
        Some(action) if ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) => {
            // SAFETY: it is what sigaction(2) gave as the handler, with these flags, and it gets
            // what the system passed to this one.
            unsafe {
                if action.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                        std::mem::transmute(action.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(c_int) = std::mem::transmute(action.sa_sigaction);
                    handler(signal);
                }
            }
        }
        // SAFETY: as in `expect_overflow`. The access is tried again, and ends the process.
        _ => unsafe {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &default, ptr::null_mut());
        },
    }
}

/// Says so, and ends the process, with nothing but what a signal handler may do.
fn overflowed(size: usize) -> ! {
    let mut digits = [0; 20];
    let mut first = digits.len();
    let mut rest = size;
    while first > 0 && (rest > 0 || first == digits.len()) {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let message: [&[u8]; 3] = [
        b"\nfatal: a handler has overflowed the stack of its fiber, which has ",
        &digits[first..],
        b" bytes; Fibers::stack_size makes it larger\n",
    ];
    for part in message {
        let _ = rustix::io::write(rustix::stdio::stderr(), part);
    }
    // SAFETY: it takes nothing and does not return; signal-safety(7) allows it.
    unsafe { libc::abort() }
}

/// Gives the thread a stack for signal handlers, unless it has one: std gives its own threads one,
/// but not in a program whose `main` is not Rust's.
fn provide_signal_stack() {
    // SAFETY: a `stack_t` of zeros is a valid one to be filled in, and so is a null pointer for
    // what is not to be changed.
    let has_one = unsafe {
        let mut now: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(ptr::null(), &mut now) == 0 && now.ss_flags & libc::SS_DISABLE == 0
    };
    if has_one {
        return;
    }
    let Ok(stack) = Stack::new(SIGNAL_STACK) else { return };
    let Bounds { size, .. } = stack.bounds();
    let lowest = stack.base().get() - size;
    let signal_stack = libc::stack_t { ss_sp: lowest as *mut c_void, ss_flags: 0, ss_size: size };
    // SAFETY: the memory is mapped, and stays so: the stack is leaked below, since nobody knows when
    // the thread's last signal has come. It is one for each worker of a program without std's.
    unsafe { libc::sigaltstack(&signal_stack, ptr::null_mut()) };
    std::mem::forget(stack);
}

/// Enough for the registers of any processor, which the system saves there.
const SIGNAL_STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_as_large_as_it_should_be_in_pages() {
        let page = rustix::param::page_size();
        for (size, expected) in [(0, page), (1, page), (10 * page, 10 * page), (page + 1, 2 * page)]
        {
            let stack = Stack::new(size).unwrap();
            let Bounds { limit, size } = stack.bounds();
            assert_eq!(size, expected);
            let (lowest, base) = (stack.base().get() - size, stack.base().get());
            assert!(lowest - limit >= GUARD && limit == stack.limit().get());
            for address in [lowest, base - 1] {
                // SAFETY: it is the first byte of the stack, or its last, and nobody else's.
                unsafe { (address as *mut u8).write_volatile(1) };
            }
        }
    }

    #[test]
    fn stacks_are_given_back_together_and_others_left_alone() {
        let first_byte = |stack: &Stack| (stack.base().get() - 1) as *mut u8;
        let mut numbered: Vec<_> =
            (0..40).map(|number| (number, Stack::new(64 * 1024).unwrap())).collect();
        for (number, stack) in &numbered {
            // SAFETY: it is the stack's alone, which nobody uses.
            unsafe { first_byte(stack).write_volatile(*number) };
        }
        // Each has neighbours that are given back, some of which are neighbours of each other.
        let others = numbered.extract_if(.., |(number, _)| *number % 5 != 0);
        give_back(others.map(|(_, stack)| stack));
        assert_eq!(numbered.len(), 8);
        for (number, stack) in &numbered {
            // SAFETY: as above.
            assert_eq!(unsafe { first_byte(stack).read_volatile() }, *number);
        }
    }

    #[test]
    fn a_stack_that_no_process_has_room_for_is_an_error() {
        for size in [1 << 60, isize::MAX as usize, usize::MAX - 1, usize::MAX] {
            let error = Stack::new(size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{size}");
        }
    }
}
