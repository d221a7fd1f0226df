//! kazoo, ZooKeeper's Python client. It comes from PyPI, into a virtual environment beside the build's results.
//! Where it can't be had a test says so, which `.ci/run` lists.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const KAZOO: &str = "kazoo==2.11.0";

fn python() -> Result<&'static Path, &'static str> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kazoo");
        let python = dir.join("bin/python");
        let mut import = Command::new(&python);
        import.args(["-c", "import kazoo"]).stderr(Stdio::null());
        if import.status().is_ok_and(|status| status.success()) {
            return Ok(python);
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", KAZOO]))?;
        Ok(python)
    });
    python.as_deref().map_err(String::as_str)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().last().unwrap_or_default().to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Runs a script that needs kazoo, with these arguments; the test fails where the script does.
pub fn kazoo(name: &str, script: &str, arguments: &[String]) {
    with_kazoo(name, |python| {
        python.args(["-c", script]).args(arguments);
    });
}

/// Runs a file of `tests/wire/kazoo` with the addresses of servers.
pub fn kazoo_file(name: &str, addresses: &[String]) {
    with_kazoo(name, |python| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/kazoo");
        python.arg(dir.join(name)).args(addresses);
    });
}

fn with_kazoo(name: &str, arguments: impl FnOnce(&mut Command)) {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            // Not by a macro, whose output a passing test keeps to itself.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: kazoo: {name}: no {KAZOO}: {why}"
            );
            return;
        }
    };
    let mut command = Command::new(python);
    // Nothing is to be left in the source tree.
    command.arg("-B");
    arguments(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed: see above");
}
