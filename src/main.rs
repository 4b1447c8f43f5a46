//! The command `walcat`.

fn main() {
    walcat::run_process()
}
