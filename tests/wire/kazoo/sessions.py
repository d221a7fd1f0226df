"""Sessions: they outlive connections, move, expire, and are nobody else's. Takes two servers of a cluster."""
import os
import socket
import struct
import sys
import threading

from kazoo.client import KazooClient, KazooState

from support import PATIENCE, client, eventually, run


def both():
    return sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else sys.argv[1]


def break_connection(zk):
    """As if the network had: the client notices at its next read."""
    zk._connection._socket.shutdown(socket.SHUT_RDWR)


def a_session_outlives_its_connection(hosts):
    with client(hosts) as zk, client(hosts) as other:
        zk.create("/outlives", ephemeral=True)
        heard = []
        zk.get("/outlives", watch=heard.append)
        before = zk.client_id
        states = []
        zk.add_listener(states.append)
        break_connection(zk)
        eventually("suspended and back", lambda: states[-1:] == [KazooState.CONNECTED])
        assert states == [KazooState.SUSPENDED, KazooState.CONNECTED], states
        assert zk.client_id == before
        assert zk.exists("/outlives").ephemeralOwner == before[0]
        assert other.exists("/outlives")


def a_session_moves_and_the_old_connection_is_closed(hosts):
    first, second = both()
    with client(first) as zk:
        zk.create("/moves", ephemeral=True)
        credentials = zk.client_id
        states = []
        zk.add_listener(states.append)
        with client(second, client_id=credentials) as moved:
            assert moved.client_id == credentials
            moved.sync("/")
            assert moved.get("/moves")[1].ephemeralOwner == credentials[0]
            moved.set("/moves", b"moved")
            eventually("the old one is cut off", lambda: KazooState.SUSPENDED in states)


def closing_a_session_ends_it_everywhere(hosts):
    first, second = both()
    zk = KazooClient(hosts=first, timeout=10)
    zk.start(timeout=PATIENCE)
    zk.create("/closed", ephemeral=True)
    credentials = zk.client_id
    with client(second) as other:
        gone = threading.Event()
        other.sync("/")
        assert other.exists("/closed", watch=lambda event: gone.set())
        zk.stop()
        assert gone.wait(PATIENCE)
    with client(second, client_id=credentials) as again:
        # It can't be had: kazoo opens another.
        assert again.client_id[0] != credentials[0]
    zk.close()


def connect(hosts, session, password, last_zxid=0, timeout=10_000):
    host, port = hosts.split(":")
    raw = socket.create_connection((host, int(port)), timeout=PATIENCE)
    body = struct.pack("!iqiq", 0, last_zxid, timeout, session)
    body += struct.pack("!i", len(password)) + password + b"\0"
    raw.sendall(struct.pack("!i", len(body)) + body)
    answer = b""
    while len(answer) < 41:
        piece = raw.recv(4096)
        if not piece:
            return raw, None
        answer += piece
    return raw, struct.unpack("!iiiqi16s?", answer[:41])


def a_silent_session_expires(hosts):
    first, second = both()
    raw, answer = connect(first, 0, b"\0" * 16, timeout=1)
    _, _, timeout, session, _, password, _ = answer
    path = b"/silent"
    acl = struct.pack("!iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
    body = struct.pack("!iii", 1, 1, len(path)) + path + struct.pack("!i", 0) + acl
    body += struct.pack("!i", 1)
    raw.sendall(struct.pack("!i", len(body)) + body)
    with client(second) as other:
        eventually("it is there", lambda: other.exists("/silent"))
        gone = threading.Event()
        if other.exists("/silent", watch=lambda event: gone.set()):
            assert gone.wait(PATIENCE)
    # The connection is closed as well.
    raw.settimeout(PATIENCE)
    while raw.recv(4096):
        pass
    raw.close()
    raw, answer = connect(second, session, password)
    assert answer[2] == 0 and answer[3] == 0, answer
    raw.close()


def a_wrong_password_gives_no_session(hosts):
    with client(hosts) as zk:
        session, password = zk.client_id
        for wrong in (os.urandom(16), password[:15] + bytes([password[15] ^ 1]), b"", b"x" * 15):
            raw, answer = connect(hosts, session, wrong)
            assert answer[2] == 0 and answer[3] == 0, answer
            assert raw.recv(1) == b""
            raw.close()
        assert zk.exists("/")


def a_client_that_has_seen_more_is_sent_away(hosts):
    raw, answer = connect(hosts, 0, b"\0" * 16, last_zxid=1 << 60)
    assert answer is None
    raw.close()


def timeouts_are_negotiated(hosts):
    for asked in (1, 10_000, 10_000_000):
        raw, answer = connect(hosts, 0, b"\0" * 16, timeout=asked)
        granted = answer[2]
        assert 1_000 <= granted <= 40_000, granted
        assert asked != 10_000 or granted == asked
        raw.close()


run(
    [
        a_session_outlives_its_connection,
        a_session_moves_and_the_old_connection_is_closed,
        closing_a_session_ends_it_everywhere,
        a_silent_session_expires,
        a_wrong_password_gives_no_session,
        a_client_that_has_seen_more_is_sent_away,
        timeouts_are_negotiated,
    ],
    sys.argv[1],
)
