"""ZooKeeper's records as bytes, a client that says what it is told to, and a ZooKeeper server to talk to."""
import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import time

ACL = [(31, "world", "anyone")]


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!i", len(data)) + data


def acls(entries):
    out = struct.pack("!i", len(entries))
    for permissions, scheme, name in entries:
        out += struct.pack("!i", permissions) + text(scheme) + text(name)
    return out


def integer(value):
    return struct.pack("!i", value)


def long(value):
    return struct.pack("!q", value)


def flag(value):
    return b"\1" if value else b"\0"


def create(path, data=b"", acl=ACL, flags=0):
    return text(path) + text(data) + acls(acl) + integer(flags)


def multi(*ops):
    out = b""
    for opcode, body in ops:
        out += integer(opcode) + flag(False) + integer(-1) + body
    return out + integer(-1) + flag(True) + integer(-1)


def paths(*all_paths):
    return integer(len(all_paths)) + b"".join(map(text, all_paths))


def connect(timeout=30000, session=0, password=b"\0" * 16, seen=0, version=0, read_only=b"\0"):
    return struct.pack("!iqiq", version, seen, timeout, session) + text(password) + read_only


TIMEOUT = b"nothing"


class Peer:
    """A connection, with a session unless it is told not to ask for one."""

    def __init__(self, address, greeting=connect()):
        host, port = address.split(":")
        self.address = address
        self.socket = socket.create_connection((host, int(port)), timeout=3)
        self.buffer = b""
        self.zxid = self.mark = 0
        self.welcome = None
        if greeting is not None:
            self.send(greeting)
            self.welcome = self.frame()

    def session(self):
        """Its session's id and password."""
        (session,) = struct.unpack("!q", self.welcome[8:16])
        return session, self.welcome[20:36]

    def send_raw(self, data):
        # That the connection is closed is for the reader to notice.
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def send(self, body):
        self.send_raw(integer(len(body)) + body)

    def frame(self):
        while True:
            if len(self.buffer) >= 4:
                (length,) = struct.unpack("!i", self.buffer[:4])
                if len(self.buffer) >= 4 + length:
                    frame, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
                    return frame
            try:
                piece = self.socket.recv(65536)
            except ConnectionError:
                piece = b""
            except TimeoutError:
                return TIMEOUT
            if not piece:
                return None
            self.buffer += piece

    def replies(self, xid):
        """Every frame up to the reply of this xid; `None` at the end where the connection closes."""
        frames = []
        while True:
            frame = self.frame()
            if frame is None or frame is TIMEOUT:
                return frames + [frame]
            frames.append(frame)
            found, zxid = struct.unpack("!iq", frame[:12])
            if found == xid:
                self.zxid = max(self.zxid, zxid)
                return frames

    def rest(self, seconds=0.5):
        """Every frame until the connection closes, or nothing more comes for a while."""
        self.socket.settimeout(seconds)
        frames = [self.frame()]
        while frames[-1] is not None and frames[-1] is not TIMEOUT:
            frames.append(self.frame())
        self.socket.settimeout(3)
        return frames

    def call(self, xid, opcode, body):
        self.send(integer(xid) + integer(opcode) + body)
        return self.replies(xid)


@contextlib.contextmanager
def zookeeper(jar):
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        settings = os.path.join(directory, "zoo.cfg")
        with open(settings, "w") as file:
            file.write("tickTime=2000\ndataDir=%s/data\nclientPort=%d\n" % (directory, port))
            file.write("clientPortAddress=127.0.0.1\nadmin.enableServer=false\nreconfigEnabled=true\n")
        main = "org.apache.zookeeper.server.ZooKeeperServerMain"
        # As ours is started: TTLs, hard quotas, and the super of ZooKeeper's documentation.
        super_digest = "DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU="
        properties = ["extendedTypesEnabled=true", "enforceQuota=true", super_digest]
        properties = ["-Dzookeeper." + name for name in properties]
        command = ["java", "-Xmx256m"] + properties + ["-cp", jar, main, settings]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                deadline = time.monotonic() + 60
                while True:
                    try:
                        # It accepts connections a moment before it serves them.
                        if len(Peer("127.0.0.1:%d" % port).welcome or b"") > len(TIMEOUT):
                            break
                    except ConnectionError:
                        assert server.poll() is None, "ZooKeeper has ended"
                    assert time.monotonic() < deadline, "ZooKeeper doesn't come up"
                    time.sleep(0.05)
                yield "127.0.0.1:%d" % port
            finally:
                server.kill()
