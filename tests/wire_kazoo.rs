//! ZooKeeper's Python client, kazoo, against servers in this process: its whole API, its recipes, and
//! the README's snippet. Where kazoo can't be had these tests say `skipped` on the standard error, which
//! `.ci/run` lists.

#[path = "wire/python.rs"]
mod python;
#[path = "wire/service.rs"]
mod service;
mod support;

use python::{kazoo, kazoo_file};
use service::Service;

#[test]
fn kazoo_calls_every_operation() {
    let service = Service::start();
    kazoo_file("operations.py", &[service.address(0)]);
}

#[test]
fn kazoo_runs_its_recipes() {
    let service = Service::start();
    kazoo_file("recipes.py", &[service.address(1)]);
}

#[test]
fn kazoo_keeps_moves_and_loses_its_sessions() {
    let service = Service::start();
    kazoo_file("sessions.py", &[service.address(0), service.address(2)]);
}

#[test]
fn the_snippet_of_the_readme_runs() {
    let service = Service::start();
    let readme = include_str!("../README.md");
    let (_, snippet) = readme.split_once("```python\n").expect("a snippet");
    let (snippet, _) = snippet.split_once("```").expect("its end");
    assert!(snippet.contains("127.0.0.1:2181"));
    let snippet = snippet.replace("127.0.0.1:2181", &service.address(0));
    kazoo("the README's snippet", &snippet, &[]);
}
