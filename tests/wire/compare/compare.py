"""The same frames to a server of ours and to ZooKeeper, their replies compared field by field.

Usage: compare.py OURS ZOOKEEPER.JAR. Starts ZooKeeper on a free port; both are to be empty. Zxids are
replaced by their order, times and session ids left out. Prints each request with both replies where they
differ, and fails where a difference isn't one of those below.
"""
import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

# What differs, and why.
KNOWN = {
    "dot path": "paths are looked at first, as ZooKeeper's clients do it",
    "double slash": "the same",
    "getData of an empty path": "ZooKeeper takes it for the root",
    "multiRead with a write": "ZooKeeper adds a body to the error, which clients don't read",
    "check alone": "3.8 says nothing at all",
    "checkWatches persistent": "new in 3.9",
    "checkWatches data": "3.8 doesn't tell persistent watches from others",
    "whoAmI with digest": "ZooKeeper has no order",
    "createSession": "ZooKeeper makes a session and closes the connection",
    "deleteContainer": "ZooKeeper lets clients delete containers",
}

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


TIMEOUT = b"nothing"


class Peer:
    def __init__(self, address):
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=3)
        self.buffer = b""
        body = struct.pack("!iqiqi", 0, 0, 30000, 0, 16) + b"\0" * 16 + b"\0"
        self.send(body)
        self.welcome = self.frame()

    def send(self, body):
        # That the connection is closed is for the reader to notice.
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(struct.pack("!i", len(body)) + body)

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
            if struct.unpack("!i", frame[:4])[0] == xid:
                return frames


STAT = "!qqqqiiiqiiq"


class View:
    """A reply with what must differ made comparable."""

    def __init__(self):
        self.zxids = {}

    def stat(self, data):
        czxid, mzxid, _, _, version, cversion, aversion, owner, length, children, pzxid = struct.unpack(
            STAT, data
        )
        names = ["z%d" % self.zxids.setdefault(z, len(self.zxids)) for z in (czxid, mzxid, pzxid)]
        return names + [version, cversion, aversion, bool(owner), length, children]

    def reply(self, frame, shape):
        if frame is None:
            return "closed"
        if frame is TIMEOUT:
            return "nothing"
        xid, zxid, error = struct.unpack("!iqi", frame[:16])
        body = frame[16:]
        if xid == -1:
            return ("event", body)
        seen = [xid, error]
        for part in shape if error == 0 else "":
            if part == "t":
                seen += [body[:-68], self.stat(body[-68:])]
                body = b""
            elif part == "s":
                seen.append(self.stat(body[:68]))
                body = body[68:]
            elif part == "b":
                (length,) = struct.unpack("!i", body[:4])
                seen.append(body[4 : 4 + max(length, 0)])
                body = body[4 + max(length, 0) :]
        return tuple(map(str, seen + [body]))


C, D, E, G, S = 1, 2, 3, 4, 5
CASES = [
    # what, opcode, body, shape of the reply's body (b bytes, s stat)
    ("create", C, create("/cmp", b"x"), "b"),
    ("create2", 15, create("/cmp/a", b"abc"), "bs"),
    ("create again", C, create("/cmp"), ""),
    ("create without parent", C, create("/cmp/no/parent"), ""),
    ("create sequential", 15, create("/cmp/s", flags=2), "bs"),
    ("create sequential /", 15, create("/cmp/", flags=2), "bs"),
    ("create ephemeral", 15, create("/cmp/e", flags=1), "bs"),
    ("child of ephemeral", C, create("/cmp/e/c"), ""),
    ("container", 19, create("/cmp/k", flags=4), "bs"),
    ("container by create", 15, create("/cmp/k2", flags=4), "bs"),
    ("ttl", 21, create("/cmp/t", flags=5) + long(100000), "bs"),
    ("ttl sequential", 21, create("/cmp/t", flags=6) + long(100000), "bs"),
    ("ttl of 0", 21, create("/cmp/t0", flags=5) + long(0), ""),
    ("ttl too long", 21, create("/cmp/t0", flags=5) + long(1 << 40), ""),
    ("ttl with a mode of none", 21, create("/cmp/t1", flags=0) + long(5), ""),
    ("ttl by create", C, create("/cmp/t2", flags=5), ""),
    ("flags 7", C, create("/cmp/f", flags=7), ""),
    ("flags -1", C, create("/cmp/f", flags=-1), ""),
    ("no acl", C, create("/cmp/acl", acl=[]), ""),
    ("bad acl", C, create("/cmp/acl", acl=[(31, "digest", "x")]), ""),
    ("auth acl without auth", C, create("/cmp/acl", acl=[(31, "auth", "")]), ""),
    ("unknown scheme", C, create("/cmp/acl", acl=[(31, "nope", "x")]), ""),
    ("relative path", C, create("cmp"), ""),
    ("empty path", C, create(""), ""),
    ("dot path", C, create("/cmp/./a"), ""),
    ("double slash", C, create("/cmp//a"), ""),
    ("invalid utf-8", C, create(b"/cmp/\xff"), ""),
    ("control character", C, create("/cmp/\x01"), ""),
    ("getData", G, text("/cmp/a") + flag(False), "bs"),
    ("getData of none", G, text("/cmp/none") + flag(True), ""),
    ("getData of a relative path", G, text("cmp") + flag(False), ""),
    ("getData of an empty path", G, text("") + flag(False), ""),
    ("exists", E, text("/cmp/a") + flag(False), "s"),
    ("exists of none", E, text("/cmp/none") + flag(False), ""),
    ("exists with NUL", E, text("/cmp\0") + flag(False), ""),
    ("setData", S, text("/cmp/a") + text(b"de") + integer(0), "s"),
    ("setData bad version", S, text("/cmp/a") + text(b"de") + integer(0), ""),
    ("setData any version", S, text("/cmp/a") + text(b"") + integer(-1), "s"),
    ("setData of none", S, text("/none") + text(b"de") + integer(-1), ""),
    ("getACL", 6, text("/cmp/a"), "t"),
    ("setACL", 7, text("/cmp/a") + acls([(31, "world", "anyone"), (1, "ip", "10.0.0.1")]) + integer(0), "s"),
    ("setACL bad version", 7, text("/cmp/a") + acls(ACL) + integer(0), ""),
    ("setACL invalid", 7, text("/cmp/none") + acls([]) + integer(0), ""),
    ("setACL of none", 7, text("/cmp/none") + acls(ACL) + integer(0), ""),
    ("getACL again", 6, text("/cmp/a"), "t"),
    ("getChildren of a leaf", 8, text("/cmp/a") + flag(False), ""),
    ("getChildren2 of a leaf", 12, text("/cmp/a") + flag(False), "t"),
    ("exists of the parent", E, text("/cmp") + flag(False), "s"),
    ("getChildren of none", 8, text("/cmp/none") + flag(False), ""),
    ("sync", 9, text("/cmp"), ""),
    ("sync of none", 9, text("/none"), ""),
    ("ping", 11, b"", ""),
    ("getEphemerals", 103, text("/cmp"), ""),
    ("getEphemerals of none", 103, text("/x"), ""),
    ("getAllChildrenNumber", 104, text("/cmp"), ""),
    ("getAllChildrenNumber of none", 104, text("/none"), ""),
    ("whoAmI", 107, b"", ""),
    ("multi", 14, multi((C, create("/cmp/m")), (13, text("/cmp/m") + integer(0)), (D, text("/cmp/m") + integer(-1))), "bb"),
    ("multi failed", 14, multi((C, create("/cmp/m2")), (D, text("/cmp/none") + integer(-1)), (C, create("/cmp/m3"))), ""),
    ("multi empty", 14, multi(), ""),
    ("multi with a read", 14, multi((C, create("/cmp/m4")), (G, text("/cmp") + flag(False))), ""),
    ("multi with bad flags", 14, multi((C, create("/cmp/m5")), (C, create("/cmp/m6", flags=9))), ""),
    ("multi cut", 14, multi((C, create("/cmp/m7")))[:-9], ""),
    ("multi nothing of it", E, text("/cmp/m7") + flag(False), ""),
    ("multiRead", 22, multi((8, text("/cmp/a") + flag(False)), (G, text("/none") + flag(False))), ""),
    ("multiRead with a write", 22, multi((C, create("/cmp/m8"))), ""),
    ("check alone", 13, text("/cmp") + integer(0), ""),
    ("delete bad version", D, text("/cmp/a") + integer(0), ""),
    ("delete not empty", D, text("/cmp") + integer(-1), ""),
    ("delete none", D, text("/cmp/none") + integer(-1), ""),
    ("delete without parent", D, text("/none/none") + integer(-1), ""),
    ("delete the root", D, text("/") + integer(-1), ""),
    ("delete system", D, text("/zookeeper") + integer(-1), ""),
    ("delete config", D, text("/zookeeper/config") + integer(-1), ""),
    ("delete quota", D, text("/zookeeper/quota") + integer(-1), ""),
    ("delete", D, text("/cmp/a") + integer(2), ""),
    ("checkWatches none", 17, text("/cmp") + integer(2), ""),
    ("removeWatches none", 18, text("/cmp") + integer(3), ""),
    ("watch type 9", 18, text("/cmp") + integer(9), ""),
    ("addWatch", 106, text("/cmp") + integer(0), ""),
    ("addWatch recursive", 106, text("/cmp/k") + integer(1), ""),
    ("addWatch mode 7", 106, text("/cmp") + integer(7), ""),
    ("checkWatches persistent", 17, text("/cmp") + integer(4), ""),
    ("checkWatches any", 17, text("/cmp") + integer(3), ""),
    ("checkWatches data", 17, text("/cmp") + integer(2), ""),
    ("event before its reply", C, create("/cmp/w"), "b"),
    ("event of a set", S, text("/cmp") + text(b"x") + integer(-1), "s"),
    ("recursive event", C, create("/cmp/k/c"), "b"),
    ("removeWatches any", 18, text("/cmp") + integer(3), ""),
    ("removeWatches again", 18, text("/cmp") + integer(3), ""),
    ("watched data", G, text("/cmp/w") + flag(True), "bs"),
    ("watched children", 8, text("/cmp/w") + flag(True), ""),
    ("deletion is heard once", D, text("/cmp/w") + integer(-1), ""),
    ("watch of none", E, text("/cmp/new") + flag(True), ""),
    ("creation is heard", C, create("/cmp/new"), "b"),
    ("setWatches", 101, long(1 << 60) + b"".join(integer(1) + text(p) for p in ("/cmp/new", "/cmp/new", "/gone")), ""),
    ("setWatches of none", 101, long(0) + integer(0) * 3, ""),
    ("setWatches missed", 101, long(1) + integer(1) + text("/cmp") + integer(0) + integer(1) + text("/cmp"), ""),
    ("setWatches2", 105, long(1) + integer(0) * 3 + integer(1) + text("/cmp") + integer(0), ""),
    ("sasl", 102, text(b"x"), ""),
    ("auth digest", 100, integer(0) + text("digest") + text(b"ann:secret"), ""),
    ("whoAmI with digest", 107, b"", ""),
    ("acl of auth", 15, create("/cmp/mine", acl=[(31, "auth", "")]), "bs"),
    ("acl expanded", 6, text("/cmp/mine"), "t"),
    ("a body too short", G, text("/cmp"), ""),
    ("a body of a write too short", S, text("/cmp"), ""),
    ("a negative length", G, integer(-5) + flag(False), ""),
    ("a length beyond the frame", G, integer(1000) + b"/cmp" + flag(False), ""),
    ("acl count beyond the frame", C, text("/cmp/z") + text(b"") + integer(1 << 30), ""),
    ("acl count negative", C, text("/cmp/z") + text(b"") + integer(-7) + integer(0), ""),
    ("the tree at the end", 104, text("/"), ""),
    ("reconfig", 16, text("") * 3 + long(-1), ""),
]
# Each ends its connection, or may.
LAST = [
    ("opcode 99", 99, b"", ""),
    ("opcode 0", 0, b"", ""),
    ("opcode -1", -1, b"", ""),
    ("createSession", -10, b"\0" * 4, ""),
    ("deleteContainer", 20, text("/cmp/k") + integer(-1), ""),
    ("auth of no scheme", 100, integer(0) + text("nope") + text(b"x"), ""),
    ("auth world", 100, integer(0) + text("world") + text(b"anyone"), ""),
    ("closeSession", -11, b"", ""),
]


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
        ttl = "-Dzookeeper.extendedTypesEnabled=true"
        command = ["java", "-Xmx256m", ttl, "-cp", jar, main, settings]
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


def main(ours, theirs):
    unknown, known, count = 0, 0, 0
    addresses = (ours, theirs)
    peers, views = [Peer(a) for a in addresses], [View(), View()]
    fixed = {101: -8, 105: -8, 11: -2, 100: -4}
    for at, (what, opcode, body, shape) in enumerate(CASES + LAST):
        if at >= len(CASES):
            peers = [Peer(a) for a in addresses]
        elif any(peer is None for peer in peers):
            peers = [Peer(a) for a in addresses]
        xid = fixed.get(opcode, at + 1)
        seen = []
        for peer, view in zip(peers, views):
            peer.send(integer(xid) + integer(opcode) + body)
            frames = peer.replies(xid)
            if at >= len(CASES) and frames[-1] is not None:
                peer.socket.settimeout(0.5)
                while (frame := peer.frame()) is not None and frame is not TIMEOUT:
                    frames.append(frame)
                frames.append(frame)
            seen.append([view.reply(frame, shape) for frame in frames])
        if any(ended in replies for ended in ("closed", "nothing") for replies in seen):
            peers = [None, None]
        count += 1
        if seen[0] != seen[1]:
            reason = KNOWN.get(what)
            known, unknown = known + bool(reason), unknown + (not reason)
            print("%s: %s" % (what, reason or "NOT EXPECTED"))
            print("  ours      %s\n  ZooKeeper %s" % (seen[0], seen[1]))
    print("%d requests: %d differ as known, %d otherwise" % (count, known, unknown))
    return unknown


with zookeeper(sys.argv[2]) as theirs:
    sys.exit(1 if main(sys.argv[1], theirs) else 0)
