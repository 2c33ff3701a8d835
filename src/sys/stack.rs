//! Stacks for fibers, each with a guard below it, and a message that names the setting when one of
//! them overflows.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use corosensei::stack::{Stack as CoroutineStack, StackPointer};
use rustix::mm::{MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::platform::stack::{FAULTS, MAP_FLAGS, install_guard};
use super::signals::call_handler;

/// The length of the guard below each stack, in bytes. It is more than a page because C code,
/// unlike Rust, does not probe each page of a large frame, and could step over a small guard.
const GUARD: usize = 16 * 1024;

/// A mapping for a stack, which grows downwards. The kernel adds memory page by page, when the
/// stack first touches it.
#[derive(Debug)]
pub(crate) struct Stack {
    /// The lowest address, where the guard begins.
    limit: NonZeroUsize,
    /// The length of the mapping in bytes, the guard included.
    length: usize,
}

impl Stack {
    /// A stack of at least `size` bytes: rounded up to whole pages, and one page for zero.
    /// `OutOfMemory` if the process has no address space left, or no mapping
    /// (`vm.max_map_count`).
    pub(crate) fn new(size: usize) -> io::Result<Stack> {
        let page = rustix::param::page_size();
        let length = size.max(page).checked_next_multiple_of(page);
        let length = length.and_then(|size| size.checked_add(GUARD.next_multiple_of(page)));
        let length = length.filter(|length| *length <= isize::MAX as usize);
        let length = length.ok_or(io::ErrorKind::OutOfMemory)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without an address and `MAP_FIXED` the kernel makes a new mapping in unused
        // address space, so that no existing memory changes.
        let limit = unsafe { mmap_anonymous(ptr::null_mut(), length, access, MAP_FLAGS)? };
        let limit = NonZeroUsize::new(limit as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let stack = Stack { limit, length };
        stack.protect(GUARD.next_multiple_of(page))?;
        Ok(stack)
    }

    fn protect(&self, guard: usize) -> io::Result<()> {
        let bottom = self.limit.get() as *mut c_void;
        // SAFETY: the range is the lowest whole pages of the mapping that `new` has just made. This
        // stack owns it, and nothing has a pointer to it yet.
        if unsafe { install_guard(bottom, guard) } {
            return Ok(());
        }
        // Pages without access.
        //
        // SAFETY: as above.
        unsafe { mprotect(bottom, guard, MprotectFlags::empty())? };
        Ok(())
    }

    pub(super) fn bounds(&self) -> Bounds {
        let guard = GUARD.next_multiple_of(rustix::param::page_size());
        Bounds { limit: self.limit.get(), size: self.length - guard }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping that `new` has made, which this stack
        // owns. Nothing runs on it: a `Fiber` owns the stack that it runs on, and lets go of it
        // only when it has ended (`drop` and `into_stack` in `sys/fiber.rs`).
        let _ = unsafe { munmap(self.limit.get() as *mut c_void, self.length) };
    }
}

/// Drops many stacks. Stacks that were made one after the other are often adjacent; each run of
/// adjacent stacks takes one `munmap`.
pub(crate) fn unmap_all(stacks: impl Iterator<Item = Stack>) {
    let mut ranges: Vec<_> = stacks
        .map(|stack| {
            let stack = ManuallyDrop::new(stack);
            stack.limit.get()..stack.limit.get() + stack.length
        })
        .collect();
    ranges.sort_unstable_by_key(|range| range.start);
    for adjacent in ranges.chunk_by(|one, next| one.end == next.start) {
        let (start, end) = (adjacent[0].start, adjacent[adjacent.len() - 1].end);
        // SAFETY: the range consists of mappings of stacks, one after the other without a gap. For
        // each of them it is as in `drop`, which `ManuallyDrop` keeps from unmapping it again.
        let _ = unsafe { munmap(start as *mut c_void, end - start) };
    }
}

// SAFETY: the usable part is at least a page, which is at least `MIN_STACK_SIZE`. Below it is a
// guard: any access to it raises a signal of `FAULTS`. `base` and `limit` are page boundaries, which are
// aligned enough, and do not change.
unsafe impl CoroutineStack for Stack {
    fn base(&self) -> StackPointer {
        self.limit.saturating_add(self.length)
    }

    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// The place and size of a stack, as the signal handler needs them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The lowest address, where the guard begins.
    limit: usize,
    /// The size of the stack in bytes, without the guard.
    size: usize,
}

thread_local! {
    /// The stack of the fiber that this thread resumed last; zeros before the first. It is a
    /// constant at first and has no destructor, so that a signal handler may read it.
    static CURRENT_STACK: Cell<Bounds> = const { Cell::new(Bounds { limit: 0, size: 0 }) };
}

impl Bounds {
    /// The end of the stack: one more than its highest address.
    pub(super) fn base(self) -> usize {
        self.limit + GUARD.next_multiple_of(rustix::param::page_size()) + self.size
    }

    /// Notes that this thread is about to run on this stack, so that the signal handler recognizes
    /// an overflow.
    pub(super) fn enter(self) {
        CURRENT_STACK.set(self);
    }
}

/// Prepares the calling thread for a fiber that overflows its stack: the process is aborted, as
/// after an overflow of a thread's stack, with a message that names the setting.
pub(crate) fn handle_overflow() {
    ensure_signal_stack();
    for (signal, previous) in FAULTS.into_iter().zip(&PREVIOUS) {
        previous.get_or_init(|| Previous(handle(signal)));
    }
}

/// Installs the handler for a signal, and returns the action that was there before.
fn handle(signal: c_int) -> libc::sigaction {
    // SAFETY: a `sigaction` consists of integers and an optional function pointer, for which
    // zeros are valid values. The call gets pointers to two local ones that live during it. The
    // handler has the signature that `SA_SIGINFO` requires, and calls only what
    // signal-safety(7) allows (and the previous handler, if there was one).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous = action;
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(signal, &action, &mut previous);
        previous
    }
}

/// The action for a signal of `FAULTS` that was installed before.
struct Previous(libc::sigaction);

static PREVIOUS: [OnceLock<Previous>; FAULTS.len()] = [const { OnceLock::new() }; FAULTS.len()];

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with `SA_SIGINFO` the kernel passes a pointer to a valid `siginfo_t`. Its `si_addr`
    // is set for a fault; if `kill` sent the signal it is other bytes of the same union, which are
    // valid as a number.
    let address = unsafe { (*info).si_addr() } as usize;
    let Bounds { limit, size } = CURRENT_STACK.get();
    if size > 0 && (limit..limit + GUARD).contains(&address) {
        abort_overflowed(size);
    }
    // Another fault: it goes to the handler that was installed before.
    let index = FAULTS.iter().position(|fault| *fault == signal).unwrap_or(0);
    let previous = PREVIOUS[index].get().map(|previous| previous.0);
    if previous.is_some_and(|action| call_handler(&action, signal, info, context)) {
        return;
    }
    // There was none. On return the access is repeated, and the default action ends the process.
    //
    // SAFETY: as in `handle`; a null pointer means that the present action is not wanted, and
    // sigaction(2) is async-signal-safe.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &default, ptr::null_mut());
    }
}

/// Prints the message and aborts, with functions that are allowed in a signal handler only: no
/// formatting, which may allocate.
fn abort_overflowed(size: usize) -> ! {
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
    // SAFETY: `abort` has no arguments, does not return, and is async-signal-safe.
    unsafe { libc::abort() }
}

/// Gives the thread an alternate signal stack ([sigaltstack(2)]) unless it has one. std gives its
/// threads one, but only in a program whose `main` is Rust's.
///
/// [sigaltstack(2)]: https://man7.org/linux/man-pages/man2/sigaltstack.2.html
fn ensure_signal_stack() {
    // SAFETY: a `stack_t` consists of a pointer and integers, for which zeros are valid values. The
    // call fills in a local one; a null pointer means that the stack is not to be changed.
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
    // SAFETY: the call reads a local `stack_t`, which describes the usable part of `stack`. That
    // memory is used for nothing else, and stays mapped: `stack` is leaked below, because a signal
    // may arrive until the very end of the thread.
    unsafe { libc::sigaltstack(&signal_stack, ptr::null_mut()) };
    std::mem::forget(stack);
}

/// The size of that stack in bytes. The kernel saves the processor's registers on it, which take
/// several KiB with AVX-512 or AMX.
const SIGNAL_STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_stack_is_rounded_up_to_pages() {
        let page = rustix::param::page_size();
        for (size, expected) in [(0, page), (1, page), (10 * page, 10 * page), (page + 1, 2 * page)]
        {
            let stack = Stack::new(size).unwrap();
            let Bounds { limit, size } = stack.bounds();
            assert_eq!(size, expected);
            let (lowest, base) = (stack.base().get() - size, stack.base().get());
            assert!(lowest - limit >= GUARD && limit == stack.limit().get());
            for address in [lowest, base - 1] {
                // SAFETY: the address is of the first or the last byte of the stack's usable part,
                // which is mapped and which nothing else uses.
                unsafe { (address as *mut u8).write_volatile(1) };
            }
        }
    }

    #[test]
    fn unmap_all_unmaps_adjacent_stacks_and_leaves_the_others() {
        let last_byte = |stack: &Stack| (stack.base().get() - 1) as *mut u8;
        let mut numbered: Vec<_> =
            (0..40).map(|number| (number, Stack::new(64 * 1024).unwrap())).collect();
        for (number, stack) in &numbered {
            // SAFETY: the byte is the last one of a mapped stack, which nothing else uses.
            unsafe { last_byte(stack).write_volatile(*number) };
        }
        // One in five stays, between runs of four that are unmapped.
        let others = numbered.extract_if(.., |(number, _)| *number % 5 != 0);
        unmap_all(others.map(|(_, stack)| stack));
        assert_eq!(numbered.len(), 8);
        for (number, stack) in &numbered {
            // SAFETY: as above: this stack was not unmapped.
            assert_eq!(unsafe { last_byte(stack).read_volatile() }, *number);
        }
    }

    #[test]
    fn a_stack_larger_than_the_address_space_is_an_error() {
        for size in [1 << 60, isize::MAX as usize, usize::MAX - 1, usize::MAX] {
            let error = Stack::new(size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{size}");
        }
    }
}
