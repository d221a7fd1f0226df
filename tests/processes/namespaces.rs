//! Network namespaces, one for each process, joined by a bridge in a namespace of its own: no other traffic
//! of the machine passes there, and none of theirs leaves.

use std::process::Command;

/// Namespaces that go when this is dropped.
pub(crate) struct Namespaces {
    count: u64,
}

/// The addresses are of the range that is set aside for tests (RFC 5737): they exist in these namespaces alone.
pub(crate) fn place(id: u64) -> (String, String) {
    (name(id), format!("192.0.2.{id}"))
}

fn name(id: u64) -> String {
    format!("quorate-{}-{id}", std::process::id())
}

fn bridge() -> String {
    format!("quorate-{}-bridge", std::process::id())
}

fn ip(words: &str) -> Result<(), String> {
    let failed = |reason: &str| format!("ip {words}: {}", reason.trim());
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|error| failed(&error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(&String::from_utf8_lossy(&output.stderr))),
    }
}

impl Namespaces {
    /// Makes them, or says why this machine can't.
    pub(crate) fn new(count: u64) -> Result<Namespaces, String> {
        let namespaces = Namespaces { count };
        let bridge = bridge();
        ip(&format!("netns add {bridge}"))?;
        ip(&format!("-n {bridge} link add hub type bridge"))?;
        ip(&format!("-n {bridge} link set hub up"))?;
        for id in 1..=count {
            let (name, address) = place(id);
            ip(&format!("netns add {name}"))?;
            ip(&format!(
                "-n {name} link add wire type veth peer name end{id} netns {bridge}"
            ))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} addr add {address}/24 dev wire"))?;
            ip(&format!("-n {name} link set wire up"))?;
            ip(&format!("-n {bridge} link set end{id} master hub"))?;
            ip(&format!("-n {bridge} link set end{id} up"))?;
        }
        Ok(namespaces)
    }

    /// Nothing comes from this node or to it any more; no connection is closed by it.
    pub(crate) fn cut_off(&self, id: u64) {
        ip(&format!("-n {} link set end{id} down", bridge())).expect("a link to cut");
    }

    pub(crate) fn heal(&self, id: u64) {
        ip(&format!("-n {} link set end{id} up", bridge())).expect("a link to mend");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for id in 1..=self.count {
            let _ = ip(&format!("netns del {}", name(id)));
        }
        let _ = ip(&format!("netns del {}", bridge()));
    }
}
