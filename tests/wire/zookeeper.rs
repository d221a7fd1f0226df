//! Debian's ZooKeeper as a process of its own, on a free port of this machine.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JAR: &str = "/usr/share/java/zookeeper.jar";

/// It ends with this.
pub struct ZooKeeper {
    child: Child,
    pub address: String,
    _dir: tempfile::TempDir,
}

impl ZooKeeper {
    /// # Errors
    /// Why there is none on this machine.
    pub fn start() -> Result<ZooKeeper, &'static str> {
        if !Path::new(JAR).exists() {
            return Err("ZooKeeper is not installed (apt-get install zookeeper)");
        }
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let settings = dir.path().join("zoo.cfg");
        let text = format!(
            "tickTime=2000\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\nadmin.enableServer=false\n",
            dir.path().join("data").display(),
            address.port()
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new("java");
        // Of `super:test`, from ZooKeeper's documentation.
        let digest = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";
        command
            .args(["-Xmx256m", "-Dzookeeper.extendedTypesEnabled=true"])
            .arg(format!(
                "-Dzookeeper.DigestAuthenticationProvider.superDigest={digest}"
            ))
            .args([
                "-cp",
                JAR,
                "org.apache.zookeeper.server.ZooKeeperServerMain",
            ])
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            return Err("there is no java");
        };
        let mut zookeeper = ZooKeeper {
            child,
            address: address.to_string(),
            _dir: dir,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !zookeeper.serves() {
            assert!(Instant::now() < deadline, "ZooKeeper doesn't come up");
            let ended = zookeeper.child.try_wait().unwrap();
            assert!(ended.is_none(), "ZooKeeper has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(zookeeper)
    }

    /// It accepts connections a moment before it serves them.
    fn serves(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(&self.address) else {
            return false;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut answer = String::new();
        stream.write_all(b"srvr").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("Mode: ")
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        // Nobody needs what it has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
