//! The program: everything is `cli`'s.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
