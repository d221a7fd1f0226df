"""What becomes of connections: greetings, sessions taken up again, frames that are none.

Each case takes a server's address and a `View`, and returns what was seen.
"""
import struct
import time

from cases import read
from wire import Peer, connect, create, integer, long, paths, text


def greeting(body):
    def case(address, view):
        peer = Peer(address, body)
        return [view.welcome(peer.welcome)] + [view.reply(frame, "") for frame in peer.rest(0.3)]

    return case


def raw(data, greeted):
    """Bytes as they are, on a connection that has a session or has none."""

    def case(address, view):
        peer = Peer(address, connect() if greeted else None)
        peer.send_raw(data)
        frames = peer.rest(0.3)
        if not greeted and frames[0] and len(frames[0]) == 37:
            return [view.welcome(frames[0])] + [view.reply(frame, "") for frame in frames[1:]]
        return [view.reply(frame, "") for frame in frames]

    return case


def owner(address):
    peer = Peer(address)
    peer.call(1, 1, create("/sessions", flags=0))
    return peer


def taken_up(change):
    """A session of another connection, whose credentials are changed in some way; and then the first one."""

    def case(address, view):
        first = owner(address)
        session, password = first.session()
        second = Peer(address, connect(session=change(session, password)[0], password=change(session, password)[1]))
        seen = [view.welcome(second.welcome)]
        if second.welcome and second.welcome[8:16] != b"\0" * 8:
            seen.append(second.session() == (session, password))
            seen += [view.reply(frame, "s") for frame in second.call(1, 3, read("/"))]
            seen += [view.reply(frame, "") for frame in first.rest(0.3)]
        else:
            seen += [view.reply(frame, "") for frame in second.rest(0.3)]
            seen += [view.reply(frame, "s") for frame in first.call(2, 3, read("/"))]
        return seen

    return case


def garbled(password):
    return bytes([password[0] ^ 1]) + password[1:]


def ephemerals_stay(address, view):
    first = owner(address)
    first.call(1, 1, create("/sessions/e", flags=1))
    session, password = first.session()
    first.socket.close()
    second = Peer(address, connect(session=session, password=password))
    seen = [view.reply(frame, "l") for frame in second.call(1, 103, text("/sessions"))]
    third = Peer(address)
    seen += [view.reply(frame, "s") for frame in third.call(1, 3, read("/sessions/e", b"\1"))]
    seen += [view.reply(frame, "") for frame in second.call(2, -11, b"")]
    seen += [view.reply(frame, "") for frame in third.rest(0.5)]
    again = Peer(address, connect(session=session, password=password))
    return seen + [view.welcome(again.welcome)]


def identities_stay(address, view):
    first = owner(address)
    first.call(-4, 100, integer(0) + text("digest") + text(b"ann:secret"))
    session, password = first.session()
    second = Peer(address, connect(session=session, password=password))
    return [view.reply(frame, "w") for frame in second.call(1, 107, b"")]


def watches_go(address, view):
    first = owner(address)
    first.call(1, 8, read("/sessions", b"\1"))
    session, password = first.session()
    second = Peer(address, connect(session=session, password=password))
    seen = [view.reply(frame, "b") for frame in second.call(1, 1, create("/sessions/w"))]
    seen += [view.reply(frame, "") for frame in second.call(2, 2, text("/sessions/w") + integer(-1))]
    return seen


def watches_are_taken_up(address, view):
    first = owner(address)
    first.call(1, 8, read("/sessions", b"\1"))
    session, password = first.session()
    mark = first.zxid
    first.socket.close()
    Peer(address).call(1, 1, create("/sessions/meanwhile"))
    second = Peer(address, connect(session=session, password=password, seen=mark))
    body = long(mark) + paths() * 2 + paths("/sessions")
    seen = [view.reply(frame, "") for frame in second.call(-8, 101, body)]
    second.call(2, 2, text("/sessions/meanwhile") + integer(-1))
    return seen


def pipelined(address, view):
    """A hundred requests at once, a failure and a ping among them."""
    peer = owner(address)
    frames = b""
    for xid in range(100):
        opcode, body = [(1, create("/sessions/p", flags=2)), (3, read("/none")), (4, read("/sessions")), (11, b"")][xid % 4]
        frame = integer(xid) + integer(opcode) + body
        frames += integer(len(frame)) + frame
    peer.send_raw(frames)
    # The xid and the error of each.
    return [struct.unpack("!iqi", peer.frame()[:16])[0::2] for _ in range(100)]


def same_xid(address, view):
    peer = owner(address)
    return [view.reply(frame, "s") for _ in range(3) for frame in peer.call(7, 3, read("/sessions"))][1:]


def expires(address, view):
    """Silent for longer than its timeout: its ephemerals are gone and it can't be taken up."""
    peer = Peer(address, connect(timeout=1))
    peer.call(1, 1, create("/sessions/silent", flags=1))
    session, password = peer.session()
    watcher = Peer(address)
    watcher.socket.settimeout(30)
    watcher.call(1, 3, read("/sessions/silent", b"\1"))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        watcher.socket.settimeout(1)
        frame = watcher.frame()
        if isinstance(frame, bytes) and len(frame) > 16:
            break
        watcher.send(integer(-2) + integer(11))
    seen = [view.reply(frame, "")]
    again = Peer(address, connect(session=session, password=password))
    return seen + [view.welcome(again.welcome)]


GREETINGS = [
    ("a timeout of 0", greeting(connect(timeout=0))),
    ("a negative timeout", greeting(connect(timeout=-5))),
    ("a timeout of days", greeting(connect(timeout=0x7FFFFFFF))),
    ("a timeout within", greeting(connect(timeout=12345))),
    ("no word on read-only", greeting(connect(read_only=b""))),
    ("content with read-only", greeting(connect(read_only=b"\1"))),
    ("another protocol version", greeting(connect(version=7))),
    ("a password for a new session", greeting(connect(password=b"7" * 16))),
    ("no password for a new session", greeting(connect(password=b""))),
    ("more seen than there is", greeting(connect(seen=1 << 60))),
    ("a negative zxid seen", greeting(connect(seen=-1))),
    ("a greeting that is longer", greeting(connect() + b"more")),
    ("a greeting that is cut", greeting(connect()[:20])),
    ("a password beyond the greeting", greeting(connect()[:24] + integer(1000) + b"12")),
    ("a password of a negative length", greeting(connect()[:24] + integer(-5) + b"\0")),
    ("a password of null", greeting(connect()[:24] + integer(-1) + b"\0")),
    ("a request before a session", greeting(integer(1) + integer(4) + read("/"))),
    ("an empty frame before a session", raw(integer(0), False)),
    ("a negative length before a session", raw(integer(-1), False)),
    ("a huge length before a session", raw(integer(0x7FFFFFFF), False)),
]

SESSIONS = [
    ("a session taken up", taken_up(lambda session, password: (session, password))),
    ("a wrong password", taken_up(lambda session, password: (session, garbled(password)))),
    ("a password of nothing", taken_up(lambda session, password: (session, b""))),
    ("a password that is short", taken_up(lambda session, password: (session, password[:8]))),
    ("a session that there isn't", taken_up(lambda session, password: (session + 99, password))),
    ("a negative session", taken_up(lambda session, password: (-1, password))),
    ("ephemerals stay", ephemerals_stay),
    ("identities when taken up", identities_stay),
    ("watches go", watches_go),
    ("watches are taken up", watches_are_taken_up),
    ("pipelined", pipelined),
    ("an xid again", same_xid),
    ("a silent session", expires),
]

FRAMES = [
    ("a frame of length %d" % length, raw(integer(length) + b"\0" * length, True)) for length in range(0, 8)
] + [
    ("a frame of length -1", raw(integer(-1), True)),
    ("a frame of the smallest length", raw(struct.pack("!I", 0x80000000), True)),
    ("a frame of a mebibyte", raw(integer(0x100000) + b"\0" * 0x100000, True)),
    ("a frame of the greatest length", raw(integer(0x7FFFFFFF), True)),
    ("a frame that ends early", raw(integer(100) + b"\0" * 50, True)),
    ("a word behind a session", raw(b"ruok", True)),
]

GROUPS = {"greetings": GREETINGS, "sessions": SESSIONS, "frames": FRAMES}
