//! Numbers of protocols, as C's `getprotobyname`.

use crate::answer::{Answer, failed};
use crate::files;

const PROTOCOLS: &str = "/etc/protocols";

/// From the file that `getprotobyname` reads, since there is no safe wrapper of that call.
pub(crate) fn protocol(name: &str) -> Answer {
    let protocols = files::read(PROTOCOLS).map_err(|error| failed(name, error))?;
    let number = files::protocol(&protocols, name);
    let number = number.ok_or_else(|| failed(name, "protocol not found"))?;
    Ok(vec![number.to_string()])
}
