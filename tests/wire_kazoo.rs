//! ZooKeeper's Python client, kazoo, against servers in this process: its whole API, its recipes, and
//! the README's snippet. kazoo comes from PyPI, into a virtual environment beside the build's results;
//! where that can't be had these tests say `skipped` on the standard error, which `.ci/run` lists.

#[path = "wire/service.rs"]
mod service;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use service::{Service, skipped};

const KAZOO: &str = "kazoo==2.11.0";

/// The Python that has kazoo, or why there is none.
fn python() -> Result<&'static Path, &'static str> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kazoo");
        let python = dir.join("bin/python");
        let has_kazoo = |python: &Path| {
            let mut import = Command::new(python);
            import.args(["-c", "import kazoo"]).stderr(Stdio::null());
            import.status().is_ok_and(|status| status.success())
        };
        if has_kazoo(&python) {
            return Ok(python);
        }
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr)
                .lines()
                .last()
                .unwrap_or_default()
                .to_string()),
            Err(error) => Err(error.to_string()),
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))
            .map_err(|why| format!("no virtual environment: {why}"))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", KAZOO]))
            .map_err(|why| format!("no {KAZOO}: {why}"))?;
        Ok(python)
    });
    python.as_deref().map_err(String::as_str)
}

fn run(name: &str, command: impl FnOnce(&Path) -> Command) {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            return skipped(&format!("kazoo: {name}"), why);
        }
    };
    let output = command(python).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed: see above");
}

/// Runs a script of `tests/wire/kazoo` with the addresses of servers.
fn script(name: &str, addresses: &[String]) {
    run(name, |python| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/kazoo");
        let mut command = Command::new(python);
        // Nothing is to be left in the source tree.
        command.arg("-B").arg(dir.join(name)).args(addresses);
        command
    });
}

#[test]
fn kazoo_calls_every_operation() {
    let service = Service::start();
    script("operations.py", &[service.address(0)]);
}

#[test]
fn kazoo_runs_its_recipes() {
    let service = Service::start();
    script("recipes.py", &[service.address(1)]);
}

#[test]
fn kazoo_keeps_moves_and_loses_its_sessions() {
    let service = Service::start();
    script("sessions.py", &[service.address(0), service.address(2)]);
}

#[test]
fn the_snippet_of_the_readme_runs() {
    let service = Service::start();
    let readme = include_str!("../README.md");
    let (_, snippet) = readme.split_once("```python\n").expect("a snippet");
    let (snippet, _) = snippet.split_once("```").expect("its end");
    assert!(snippet.contains("127.0.0.1:2181"));
    let snippet = snippet.replace("127.0.0.1:2181", &service.address(0));
    run("the README's snippet", |python| {
        let mut command = Command::new(python);
        command.arg("-c").arg(snippet);
        command
    });
}
