//! The graceful stop, from its first step to its last.

use crate::accept::BaseServer;
use crate::mixin::Mixin;
use crate::state::ServerState;

/// Stops a server: all requests of its mixin have ended when this returns, or are in the
/// [`StopReport`](crate::StopReport). The steps are due when
/// [`StopSchedule`](crate::state::ServerState::schedule) says.
pub(super) fn shut_down(base: BaseServer, mixin: &impl Mixin) {
    let handle = base.handle();
    let state = handle.state();
    // `ServerHandle::stop` returns, even if a user's mixin panics in one of the steps.
    let _end_serving = EndServing(state);

    // 1. Handlers read EOF behind what was received.
    state.shutdown_process();
    state.begin_stop();
    state.tell_stop();
    // 2. Close the listener: clients that connect from now on are refused by the system, or served by
    // the program that it was handed over to.
    if state.processes.is_handed_over() {
        base.listener().set_owner(false);
    }
    drop(base);
    state.rejected.clear();
    if state.processes.is_handed_over() {
        // Clients that have just connected do not know that they are to connect anew.
        mixin.wait(&handle, &|| state.schedule().first_requests);
        state.registry.drain_new();
    }
    // 3. Wait for the requests to end by themselves.
    if !mixin.wait(&handle, &|| state.schedule().force) {
        // 4. Shut down the connections that are left, and wait for their handlers to notice.
        state.registry.force();
        mixin.terminate();
        mixin.wait(&handle, &|| state.schedule().end);
    }
    // 5. Join the threads, kill the children.
    mixin.close(&handle);
    state.log_stuck();
}

struct EndServing<'a>(&'a ServerState);

impl Drop for EndServing<'_> {
    fn drop(&mut self) {
        self.0.end_serving();
    }
}
