//! `kv serve`: the server itself, with the flags of `kv-daemon`, in the same executable: whoever has
//! `kv` has a server of the same build.

use std::ffi::OsString;
use std::io::Read;

use kv_daemon::program;
use tokio::sync::oneshot;

/// Set by `kv dev up` for its children: they end when their stdin does, that is, with their parent,
/// however that ends.
pub const UNTIL_EOF: &str = "KV_SERVE_UNTIL_EOF";

/// Runs the server if that is what was asked for, and returns its exit code.
pub fn asked_for() -> Option<u8> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    if arguments.next()? != "serve" {
        return None;
    }
    let mut name = program;
    name.push(" serve");
    let arguments: Vec<OsString> = std::iter::once(name).chain(arguments).collect();
    Some(program::serve(arguments, parent_ended()))
}

/// Comes to an end with stdin, if that is wished.
async fn parent_ended() {
    if std::env::var_os(UNTIL_EOF).is_none() {
        return std::future::pending().await;
    }
    let (ended, wait) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| 0 < read) {}
        drop(ended);
    });
    let _ = wait.await;
}
