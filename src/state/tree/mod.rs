//! The tree's storage in memory: znodes by path, read by many threads while one writes.
