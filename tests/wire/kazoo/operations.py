"""kazoo's client API, call by call: results, errors, stats and watches."""
import sys
import threading

from kazoo import exceptions as errors
from kazoo.client import KazooClient
from kazoo.protocol.states import EventType
from kazoo.security import (
    ACL,
    CREATOR_ALL_ACL,
    OPEN_ACL_UNSAFE,
    Id,
    Permissions,
    make_acl,
    make_digest_acl,
    make_digest_acl_credential,
)

from support import PATIENCE, client, eventually, raises, run


def every_create_mode(hosts):
    with client(hosts) as zk:
        assert zk.create("/modes", b"data") == "/modes"
        assert zk.create("/modes/s", sequence=True) == "/modes/s0000000000"
        assert zk.create("/modes/s", sequence=True) == "/modes/s0000000001"
        assert zk.create("/modes/", sequence=True) == "/modes/0000000002"
        assert zk.create("/modes/e", ephemeral=True) == "/modes/e"
        path, stat = zk.create("/modes/es", ephemeral=True, sequence=True, include_data=True)
        assert path == "/modes/es0000000004", path
        assert stat.ephemeralOwner == zk.client_id[0]
        assert stat.czxid == stat.mzxid == stat.pzxid and stat.version == 0
        assert zk.create("/modes/a/b/c", makepath=True) == "/modes/a/b/c"
        raises(errors.NodeExistsError, zk.create, "/modes")
        raises(errors.NoNodeError, zk.create, "/missing/child")
        raises(errors.NoChildrenForEphemeralsError, zk.create, "/modes/e/child")
        owner = zk.client_id[0]
    with client(hosts) as zk:
        assert zk.exists("/modes/e") is None and zk.exists("/modes/es0000000004") is None
        assert zk.client_id[0] != owner


def get_set_delete_with_versions(hosts):
    with client(hosts) as zk:
        zk.create("/versions", b"0")
        data, stat = zk.get("/versions")
        assert data == b"0" and stat.version == 0 and stat.dataLength == 1
        stat = zk.set("/versions", b"1", version=0)
        assert stat.version == 1 and stat.mzxid > stat.czxid
        raises(errors.BadVersionError, zk.set, "/versions", b"2", version=0)
        raises(errors.BadVersionError, zk.delete, "/versions", version=0)
        raises(errors.NoNodeError, zk.set, "/versions/none", b"")
        raises(errors.NoNodeError, zk.get, "/versions/none")
        raises(errors.NoNodeError, zk.get_children, "/versions/none")
        raises(errors.NoNodeError, zk.delete, "/versions/none")
        zk.create("/versions/child")
        raises(errors.NotEmptyError, zk.delete, "/versions")
        names, stat = zk.get_children("/versions", include_data=True)
        assert names == ["child"] and stat.cversion == 1 and stat.numChildren == 1
        zk.delete("/versions/child")
        stat = zk.exists("/versions")
        assert stat.cversion == 2 and stat.numChildren == 0
        zk.delete("/versions", version=1)
        assert zk.exists("/versions") is None
        zk.ensure_path("/versions/deep/er")
        zk.delete("/versions", recursive=True)
        raises(errors.BadArgumentsError, zk.delete, "/zookeeper")
        assert sorted(zk.get_children("/zookeeper")) == ["config", "quota"]


def one_shot_watches(hosts):
    with client(hosts) as zk, client(hosts) as other:
        heard = []
        zk.exists("/watched", watch=heard.append)
        other.create("/watched", b"0")
        eventually("created", lambda: len(heard) == 1)
        zk.get("/watched", watch=heard.append)
        other.set("/watched", b"1")
        eventually("changed", lambda: len(heard) == 2)
        zk.get_children("/watched", watch=heard.append)
        other.create("/watched/child")
        eventually("children", lambda: len(heard) == 3)
        zk.get("/watched/child", watch=heard.append)
        other.delete("/watched/child")
        eventually("deleted", lambda: len(heard) == 4)
        kinds = [(event.type, event.path) for event in heard]
        assert kinds == [
            (EventType.CREATED, "/watched"),
            (EventType.CHANGED, "/watched"),
            (EventType.CHILD, "/watched"),
            (EventType.DELETED, "/watched/child"),
        ], kinds
        # Each was heard once: a change that nobody waits for is followed by one that is.
        other.set("/watched", b"2")
        zk.get("/watched", watch=heard.append)
        other.set("/watched", b"3")
        eventually("once", lambda: len(heard) == 5)
        assert len(heard) == 5


def transactions(hosts):
    with client(hosts) as zk:
        zk.create("/multi", b"0")
        transaction = zk.transaction()
        transaction.create("/multi/a", b"1")
        transaction.check("/multi", version=0)
        transaction.set_data("/multi/a", b"2")
        transaction.create("/multi/s-", sequence=True)
        transaction.create("/multi/e", ephemeral=True)
        transaction.delete("/multi/e")
        results = transaction.commit()
        assert results[0] == "/multi/a" and results[1] is True and results[2].version == 1, results
        assert results[3] == "/multi/s-0000000001" and results[4:] == ["/multi/e", True], results
        transaction = zk.transaction()
        transaction.create("/multi/b")
        transaction.delete("/multi/a", version=9)
        transaction.create("/multi/c")
        results = transaction.commit()
        assert [type(result) for result in results] == [
            errors.RolledBackError,
            errors.BadVersionError,
            errors.RuntimeInconsistency,
        ], results
        assert zk.exists("/multi/b") is None
        assert zk.transaction().commit() == []


def acls(hosts):
    with client(hosts) as ann, client(hosts) as bob:
        ann.add_auth("digest", "ann:secret")
        only_ann = [make_digest_acl("ann", "secret", all=True)]
        ann.create("/ann", b"private", acl=only_ann)
        assert ann.get("/ann")[0] == b"private"
        raises(errors.NoAuthError, bob.get, "/ann")
        raises(errors.NoAuthError, bob.set, "/ann", b"")
        raises(errors.NoAuthError, bob.create, "/ann/child")
        acl, stat = ann.get_acls("/ann")
        hashed = make_digest_acl_credential("ann", "secret")
        assert acl == [ACL(Permissions.ALL, Id("digest", hashed))], acl
        readable = only_ann + [make_acl("world", "anyone", read=True)]
        assert ann.set_acls("/ann", readable, version=0).aversion == 1
        raises(errors.BadVersionError, ann.set_acls, "/ann", readable, version=0)
        assert bob.get("/ann")[0] == b"private"
        acl, _ = bob.get_acls("/ann")
        assert acl[0].id == Id("digest", "ann:x"), acl
        raises(errors.NoAuthError, bob.set_acls, "/ann", OPEN_ACL_UNSAFE)
        raises(errors.InvalidACLError, bob.set_acls, "/ann", CREATOR_ALL_ACL)
        ann.create("/creator", acl=CREATOR_ALL_ACL)
        assert ann.get_acls("/creator")[0] == [ACL(Permissions.ALL, Id("digest", hashed))]
        raises(errors.InvalidACLError, bob.create, "/other", acl=[make_acl("digest", "x", all=True)])
        ann.create("/here", acl=[make_acl("ip", "127.0.0.0/8", all=True)])
        assert bob.get("/here")[0] == b""
        ann.create("/there", acl=[make_acl("ip", "10.0.0.0/8", all=True)])
        raises(errors.NoAuthError, bob.get, "/there")
        bob.add_auth("digest", "ann:secret")
        assert bob.get("/creator")[0] == b""
    with client(hosts, auth_data=[("digest", "super:test")]) as root:
        assert root.get("/creator")[0] == b""
        root.delete("/there")


def a_refused_scheme_ends_the_connection(hosts):
    zk = KazooClient(hosts=hosts, timeout=10)
    zk.start(timeout=PATIENCE)
    states = []
    zk.add_listener(states.append)
    raises(errors.AuthFailedError, zk.add_auth, "nonsense", "x:y")
    eventually("the client gives up", lambda: states)
    zk.stop()
    zk.close()


def ephemerals_belong_to_their_session(hosts):
    with client(hosts) as zk, client(hosts) as other:
        zk.ensure_path("/mine")
        for name in ("a", "b"):
            zk.create("/mine/" + name, ephemeral=True)
        other.create("/mine/c", ephemeral=True)
        owner = zk.client_id[0]
        assert zk.get("/mine/a")[1].ephemeralOwner == owner
        gone = threading.Event()
        other.get("/mine/a", watch=lambda event: gone.set())
        zk.stop()
        assert gone.wait(PATIENCE)
        assert other.get_children("/mine") == ["c"]
        zk.start(timeout=PATIENCE)


def large_values(hosts):
    with client(hosts) as zk, client(hosts) as other:
        largest = b"x" * (1024 * 1024 - 200)
        zk.create("/large", largest)
        assert zk.get("/large")[0] == largest
        zk.set("/large", largest[::-1])
        assert zk.get("/large")[0] == largest[::-1]
        lost = raises(errors.ConnectionLoss, zk.set, "/large", b"x" * (1024 * 1024))
        assert lost
        eventually("connected again", lambda: zk.connected)
        assert len(zk.get("/large")[0]) == len(largest)
        zk.delete("/large")


def chroot_is_the_clients_own(hosts):
    with client(hosts) as zk:
        zk.ensure_path("/rooted")
        with client(hosts + "/rooted") as inside:
            heard = []
            inside.exists("/x", watch=heard.append)
            assert inside.create("/x") == "/x"
            eventually("the event", lambda: heard)
            assert heard[0].path == "/x"
            assert zk.get_children("/rooted") == ["x"]
            assert inside.create("/q-", sequence=True) == "/q-0000000001"


def names_of_all_languages(hosts):
    with client(hosts) as zk:
        zk.ensure_path("/name/ä/日本/a b")
        assert zk.get_children("/name") == ["ä"]
        assert zk.get_children("/name/ä/日本") == ["a b"]
        raises(errors.BadArgumentsError, zk.create, "/name/\u0001")


def pipelined_calls(hosts):
    with client(hosts) as zk:
        zk.create("/pipe", b"")
        calls = []
        for number in range(2_000):
            calls.append(zk.set_async("/pipe", str(number).encode()))
            calls.append(zk.get_async("/pipe"))
        for number in range(2_000):
            stat = calls[2 * number].get(timeout=PATIENCE)
            data, read = calls[2 * number + 1].get(timeout=PATIENCE)
            assert stat.version == number + 1
            assert data == str(number).encode() and read.version == number + 1
        assert zk.sync("/pipe") == "/pipe"


def two_clients_see_each_other_after_sync(hosts):
    with client(hosts) as one, client(hosts) as two:
        one.create("/synced", b"0")
        for number in range(50):
            one.set("/synced", str(number).encode())
            two.sync("/synced")
            assert two.get("/synced")[0] == str(number).encode()


run(
    [
        every_create_mode,
        get_set_delete_with_versions,
        one_shot_watches,
        transactions,
        acls,
        a_refused_scheme_ends_the_connection,
        ephemerals_belong_to_their_session,
        large_values,
        chroot_is_the_clients_own,
        names_of_all_languages,
        pipelined_calls,
        two_clients_see_each_other_after_sync,
    ],
    sys.argv[1],
)
