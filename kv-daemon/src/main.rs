//! The server's program. All of it is in the library, where `kv serve` finds it too.

fn main() {
    let code = kv_daemon::program::serve(std::env::args_os(), std::future::pending());
    // Not by returning: a disk that hangs holds its thread for ever, and nobody waits for it.
    std::process::exit(i32::from(code));
}
