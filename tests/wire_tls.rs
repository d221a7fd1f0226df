//! TLS for wire clients: on the same port or its own, who is let in, who they are then, and how
//! certificates change.

#[path = "wire/asked.rs"]
mod asked;
mod certificates;
#[path = "wire/python.rs"]
mod python;
mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use asked::{monitored, word};
use certificates::{Authority, Files};
use python::kazoo;
use quorate::Node;
use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
use rcgen::DnType;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::eventually;
use wire::{Body, Wire, body, create, read};

const CREATE: i32 = 1;
const GET: i32 = 4;
const AUTH: i32 = 100;
const WHO_AM_I: i32 = 107;

fn serve(
    options: impl FnOnce(ZooKeeperServerBuilder) -> ZooKeeperServerBuilder,
) -> (Node, ZooKeeperServer) {
    let node = Node::builder(1).start().unwrap();
    let builder = ZooKeeperServer::builder(&node)
        .listen("127.0.0.1:0")
        .four_letter_words(["*"]);
    let server = options(builder).start().unwrap();
    node.wait_for(support::PATIENCE, |status| status.leader.is_some())
        .unwrap();
    (node, server)
}

/// An authority, the server's files, and those of a client whose subject is known.
struct Certified {
    authority: Authority,
    server: Files,
    client: Files,
    directory: tempfile::TempDir,
}

const SUBJECT: &str = "CN=worker,OU=Jobs,O=Example";

impl Certified {
    fn new() -> Certified {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("ours");
        let issued = |name: &str, subject: &[(DnType, &str)]| {
            let dir = directory.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            authority.issue_to(&dir, name, subject)
        };
        let subject = [
            (DnType::OrganizationName, "Example"),
            (DnType::OrganizationalUnitName, "Jobs"),
            (DnType::CommonName, "worker"),
        ];
        Certified {
            server: issued("server", &[]),
            client: issued("client", &subject),
            directory,
            authority,
        }
    }
}

/// A client's side of TLS: whom it trusts, and what it shows.
fn config(trusts: &Path, shows: Option<&Files>, version: Version) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(trusts).unwrap())
        .unwrap();
    let versions: &[&rustls::SupportedProtocolVersion] = match version {
        Version::Tls12 => &[&rustls::version::TLS12],
        Version::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shows {
        Some(files) => {
            let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

#[derive(Clone, Copy)]
enum Version {
    Tls12,
    Tls13,
}

/// A ZooKeeper client over TLS.
struct Secure {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Secure {
    fn open(address: SocketAddr, config: Arc<ClientConfig>) -> Secure {
        let socket = TcpStream::connect(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let name = ServerName::try_from("server").unwrap();
        let connection = ClientConnection::new(config, name).unwrap();
        Secure {
            stream: StreamOwned::new(connection, socket),
        }
    }

    /// With a session; an error where it isn't let in.
    fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Secure> {
        let mut client = Secure::open(address, config);
        let connect = body().int(0).long(0).int(10_000).long(0);
        client.send(&connect.text([0; 16]).bool(false))?;
        let welcome = client.receive()?;
        assert_ne!(welcome[8..16], [0; 8]);
        Ok(client)
    }

    fn send(&mut self, frame: &Body) -> std::io::Result<()> {
        let length = (frame.0.len() as i32).to_be_bytes();
        self.stream.write_all(&[&length, &frame.0[..]].concat())?;
        self.stream.flush()
    }

    fn receive(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// The error and the body of a reply.
    fn call(&mut self, xid: i32, opcode: i32, rest: &Body) -> (i32, Vec<u8>) {
        let mut frame = body().int(xid).int(opcode);
        frame.0.extend(&rest.0);
        self.send(&frame).unwrap();
        let reply = self.receive().unwrap();
        assert_eq!(reply[..4], xid.to_be_bytes());
        let error = i32::from_be_bytes(reply[12..16].try_into().unwrap());
        (error, reply[16..].to_vec())
    }

    fn identities(&mut self) -> Vec<(String, String)> {
        let (error, bytes) = self.call(90, WHO_AM_I, &body());
        assert_eq!(error, 0);
        let mut rest = &bytes[4..];
        let mut text = || {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let text = String::from_utf8(rest[4..4 + length].to_vec()).unwrap();
            rest = &rest[4 + length..];
            text
        };
        let count = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        (0..count).map(|_| (text(), text())).collect()
    }
}

fn is_let_in(address: SocketAddr, config: Arc<ClientConfig>) -> bool {
    Secure::connect(address, config).is_ok()
}

#[test]
fn both_kinds_of_clients_are_served_on_one_port() {
    let certified = Certified::new();
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()));
    let address = server.address();
    for version in [Version::Tls12, Version::Tls13] {
        let config = config(
            &certified.server.authority,
            Some(&certified.client),
            version,
        );
        let mut secure = Secure::connect(address, config).unwrap();
        assert_eq!(secure.call(1, GET, &read("/", false)).0, 0);
    }
    let mut plain = Wire::connect(address, 10_000).0;
    let large = vec![7; 900_000];
    assert_eq!(plain.call(1, CREATE, &create("/large", &large, 0)).error, 0);
    assert_eq!(word(address, "ruok"), "imok");
    // What is larger than any buffer comes through whole, again and again.
    let config = config(
        &certified.server.authority,
        Some(&certified.client),
        Version::Tls13,
    );
    let mut secure = Secure::connect(address, config.clone()).unwrap();
    for xid in 0..20 {
        let mut request = body().int(xid).int(GET);
        request.0.extend(read("/large", false).0);
        secure.send(&request).unwrap();
    }
    for xid in 0..20_i32 {
        let reply = secure.receive().unwrap();
        assert_eq!(reply[..4], xid.to_be_bytes());
        assert!(reply.len() > large.len() && reply[20..].starts_with(&large));
    }
    // Words are answered, too.
    let mut asking = Secure::open(address, config);
    asking.stream.write_all(b"ruok").unwrap();
    let mut answer = String::new();
    asking.stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "imok");
    drop(secure);
    eventually("the handshakes are counted out", || {
        monitored(address)["zk_outstanding_tls_handshake"] == "0"
    });
}

#[test]
fn a_certificate_is_an_identity() {
    let certified = Certified::new();
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()));
    let config = config(
        &certified.server.authority,
        Some(&certified.client),
        Version::Tls13,
    );
    let mut secure = Secure::connect(server.address(), config).unwrap();
    let expected = [("ip", "127.0.0.1"), ("x509", SUBJECT)];
    let expected = expected.map(|(scheme, id)| (scheme.to_string(), id.to_string()));
    assert_eq!(secure.identities(), expected);
    // It owns what it makes with the ACL `auth`, and nobody else does.
    let own = body().text("/own").text("data").int(1).int(31);
    let own = own.text("auth").text("").int(0);
    assert_eq!(secure.call(1, CREATE, &own).0, 0);
    assert_eq!(secure.call(2, GET, &read("/own", false)).0, 0);
    let mut plain = Wire::connect(server.address(), 10_000).0;
    assert_eq!(plain.call(1, GET, &read("/own", false)).error, -102);
    // It may say so once more; without a certificate it proves nothing.
    let x509 = body().int(0).text("x509").text("");
    assert_eq!(secure.call(-4, AUTH, &x509).0, 0);
    assert_eq!(plain.call(-4, AUTH, &x509).error, -115);
    assert!(plain.is_closed());
}

#[test]
fn the_holder_of_one_certificate_may_do_everything() {
    let certified = Certified::new();
    let (_node, server) =
        serve(|builder| builder.tls(certified.server.config()).super_x509(SUBJECT));
    let mut plain = Wire::connect(server.address(), 10_000).0;
    let nobodys = body().text("/theirs").text("data").int(1).int(31);
    let nobodys = nobodys.text("digest").text("ann:hash").int(0);
    assert_eq!(plain.call(1, CREATE, &nobodys).error, 0);
    let trusts = &certified.server.authority;
    let mut secure = Secure::connect(
        server.address(),
        config(trusts, Some(&certified.client), Version::Tls13),
    )
    .unwrap();
    assert_eq!(secure.call(1, GET, &read("/theirs", false)).0, 0);
    let mut other = Secure::connect(
        server.address(),
        config(trusts, Some(&certified.server), Version::Tls13),
    )
    .unwrap();
    assert_eq!(other.call(1, GET, &read("/theirs", false)).0, -102);
}

#[test]
fn who_shows_no_certificate_or_a_strangers_is_let_in_only_where_that_is_allowed() {
    let certified = Certified::new();
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()));
    let trusts = &certified.server.authority;
    let own = config(trusts, Some(&certified.client), Version::Tls13);
    let none = config(trusts, None, Version::Tls13);
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::new("theirs").issue(elsewhere.path(), "client");
    let foreign = config(trusts, Some(&foreign), Version::Tls13);
    assert!(is_let_in(server.address(), own.clone()));
    assert!(!is_let_in(server.address(), none.clone()));
    assert!(!is_let_in(server.address(), foreign.clone()));
    eventually("they are counted", || {
        monitored(server.address())["zk_unsuccessful_handshake"] == "2"
    });

    let optional = certified.server.config().client_certificates_optional();
    let (_node, server) = serve(|builder| builder.tls(optional.unwrap()));
    let mut anonymous = Secure::connect(server.address(), none).unwrap();
    assert_eq!(anonymous.identities().len(), 1);
    assert!(!is_let_in(server.address(), foreign));
    assert!(is_let_in(server.address(), own));
}

#[test]
fn tls_may_be_all_that_is_spoken_or_have_a_port_of_its_own() {
    let certified = Certified::new();
    let trusts = &certified.server.authority;
    let own = config(trusts, Some(&certified.client), Version::Tls13);
    let is_plain = |address| {
        let mut wire = Wire::open(address);
        wire.ask_for_session(0, &[0; 16], 10_000);
        wire.welcome().is_some()
    };
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()).refuse_plain());
    assert!(!is_plain(server.address()));
    assert!(is_let_in(server.address(), own.clone()));

    let (_node, server) = serve(|builder| {
        builder
            .tls(certified.server.config())
            .listen_tls("127.0.0.1:0")
    });
    let secure = server.secure_address().unwrap();
    assert!(is_plain(server.address()) && !is_plain(secure));
    assert!(!is_let_in(server.address(), own.clone()) && is_let_in(secure, own));
    let conf = word(server.address(), "conf");
    let line = format!("secureClientPort={}\n", secure.port());
    assert!(conf.contains(&line), "{conf}");
}

#[test]
fn new_certificates_are_taken_up_without_a_restart() {
    let certified = Certified::new();
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()));
    let address = server.address();
    let old = config(
        &certified.server.authority,
        Some(&certified.client),
        Version::Tls13,
    );
    let mut before = Secure::connect(address, old.clone()).unwrap();
    // Another authority signs everything from now on.
    let dir = certified.directory.path().join("new");
    std::fs::create_dir(&dir).unwrap();
    let authority = Authority::new("its successor");
    let new_client = authority.issue(&dir, "client");
    let new = config(&new_client.authority, Some(&new_client), Version::Tls13);
    authority.issue(certified.server.certificate.parent().unwrap(), "server");
    eventually("the new one is shown", || is_let_in(address, new.clone()));
    assert!(!is_let_in(address, old));
    // Who was there stays.
    assert_eq!(before.call(1, GET, &read("/", false)).0, 0);
    drop(certified.authority);
}

#[test]
fn half_a_handshake_holds_nobody_up() {
    let certified = Certified::new();
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()));
    let address = server.address();
    let mut halves: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for (at, half) in halves.iter_mut().enumerate() {
        half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00][..1 + at % 5])
            .unwrap();
    }
    let mut plain = Wire::connect(address, 10_000).0;
    assert_eq!(plain.call(1, GET, &read("/", false)).error, 0);
    // What looks like TLS and isn't ends at once.
    let mut garbage = TcpStream::connect(address).unwrap();
    garbage
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    garbage
        .write_all(&[&[0x16, 0x03, 0x01, 0x00, 0x10], &[0xff; 16][..]].concat())
        .unwrap();
    let mut rest = Vec::new();
    let _ = garbage.read_to_end(&mut rest);
}

#[test]
fn kazoo_connects_by_tls() {
    let certified = Certified::new();
    let (_node, server) = serve(|builder| builder.tls(certified.server.config()).refuse_plain());
    let script = r#"
import sys
from kazoo.client import KazooClient
from kazoo.security import make_acl

address, ca, certificate, key, subject = sys.argv[1:]
zk = KazooClient(hosts=address, use_ssl=True, ca=ca, certfile=certificate, keyfile=key,
                 check_hostname=False)
zk.start()
zk.create("/a", b"data", acl=[make_acl("x509", subject, all=True)])
assert zk.get("/a")[0] == b"data"
assert zk.get_acls("/a")[0][0].id.id == subject
zk.stop()
"#;
    let path = |path: &Path| path.display().to_string();
    let arguments = [
        server.address().to_string(),
        path(&certified.server.authority),
        path(&certified.client.certificate),
        path(&certified.client.key),
        SUBJECT.to_string(),
    ];
    kazoo("TLS", script, &arguments);
}
