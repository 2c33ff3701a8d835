//! Parts of a request that run at the same time: [`Connection::scope`].

use super::Connection;
use crate::sync::{Scope, scope};

impl Connection {
    /// Runs parts of a request at the same time: [`sync::scope`](scope), which also is the one to call
    /// where the parts use this connection or its halves.
    ///
    /// ```
    /// use socketserver::Connection;
    ///
    /// let connection = Connection::in_memory("");
    /// let (one, other) = connection.as_ref().scope(|scope| {
    ///     let part = scope.spawn(|| 1 + 1)?;
    ///     let other = 2 + 2;
    ///     Ok::<_, socketserver::Error>((part.join().expect("it does not panic"), other))
    /// })?;
    /// assert_eq!((one, other), (2, 4));
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Panics
    /// With the panic of `call`, or else of a part.
    pub fn scope<'env, R>(&self, call: impl for<'scope> FnOnce(Scope<'scope, 'env>) -> R) -> R {
        scope(call)
    }
}
