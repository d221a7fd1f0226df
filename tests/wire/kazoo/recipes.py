"""kazoo's recipes: what people build their services on."""
import sys
import threading

from kazoo.recipe.barrier import Barrier, DoubleBarrier
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.recipe.watchers import ChildrenWatch, DataWatch

from support import PATIENCE, client, eventually, run


def in_thread(call, *arguments):
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    return thread


def data_and_children_watches(hosts):
    with client(hosts) as zk, client(hosts) as other:
        zk.ensure_path("/dw")
        data, children = [], []
        DataWatch(zk, "/dw/x", lambda value, stat: data.append(value))
        ChildrenWatch(zk, "/dw", lambda names: children.append(sorted(names)))
        other.create("/dw/x", b"1")
        eventually("created", lambda: data[-1:] == [b"1"] and children[-1:] == [["x"]])
        for value in (b"2", b"3", b"4"):
            other.set("/dw/x", value)
            eventually("set", lambda: data[-1] == value)
        other.delete("/dw/x")
        eventually("deleted", lambda: data[-1] is None and children[-1] == [])


def lock_is_held_by_one(hosts):
    with client(hosts) as one, client(hosts) as two:
        inside, most, done = [], [], []

        def work(zk):
            for _ in range(20):
                with zk.Lock("/lock", "worker"):
                    inside.append(zk)
                    most.append(len(inside))
                    inside.remove(zk)
            done.append(zk)

        in_thread(work, one)
        in_thread(work, two)
        eventually("both are done", lambda: len(done) == 2)
        assert max(most) == 1 and len(most) == 40
        lock = one.Lock("/lock", "me")
        assert lock.acquire(timeout=PATIENCE)
        assert two.Lock("/lock").contenders() == ["me"]
        assert not two.Lock("/lock").acquire(blocking=False)
        lock.release()


def lock_passes_on_when_its_session_closes(hosts):
    with client(hosts) as two:
        with client(hosts) as one:
            assert one.Lock("/passed").acquire(timeout=PATIENCE)
            waiting = two.Lock("/passed")
            thread = in_thread(waiting.acquire)
            eventually("it waits", lambda: len(waiting.contenders()) == 2)
        thread.join(PATIENCE)
        assert waiting.is_acquired
        waiting.release()


def read_and_write_locks(hosts):
    with client(hosts) as one, client(hosts) as two:
        first, second = one.ReadLock("/rw"), two.ReadLock("/rw")
        assert first.acquire(timeout=PATIENCE) and second.acquire(timeout=PATIENCE)
        writer = two.WriteLock("/rw")
        assert not writer.acquire(blocking=False)
        first.release()
        second.release()
        assert writer.acquire(timeout=PATIENCE)
        writer.release()


def semaphore(hosts):
    with client(hosts) as one, client(hosts) as two:
        first = one.Semaphore("/semaphore", max_leases=2)
        second = two.Semaphore("/semaphore", max_leases=2)
        third = one.Semaphore("/semaphore", max_leases=2)
        assert first.acquire() and second.acquire()
        assert not third.acquire(blocking=False)
        second.release()
        assert third.acquire(timeout=PATIENCE)
        first.release()
        third.release()


def election(hosts):
    with client(hosts) as one, client(hosts) as two:
        led = []
        stop = threading.Event()

        def lead(name):
            led.append(name)
            stop.wait(PATIENCE)

        first, second = one.Election("/election", "one"), two.Election("/election", "two")
        threads = [in_thread(first.run, lead, "one")]
        eventually("one leads", lambda: led == ["one"])
        threads.append(in_thread(second.run, lead, "two"))
        eventually("two waits", lambda: first.contenders() == ["one", "two"])
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert led == ["one", "two"]


def queues(hosts):
    with client(hosts) as one, client(hosts) as two:
        queue = one.Queue("/queue")
        for value in (b"a", b"b", b"c"):
            queue.put(value)
        queue.put(b"first", priority=1)
        taken = [two.Queue("/queue").get() for _ in range(4)]
        assert taken == [b"first", b"a", b"b", b"c"], taken
        locking, other = one.LockingQueue("/locking"), two.LockingQueue("/locking")
        locking.put_all([b"a", b"b"])
        assert locking.get() == b"a" and other.get() == b"b"
        assert locking.consume() and other.release()
        assert len(other) == 1


def counter(hosts):
    with client(hosts) as one, client(hosts) as two:
        done = []

        def count(zk):
            mine = zk.Counter("/counter")
            for _ in range(25):
                mine += 1
            done.append(zk)

        in_thread(count, one)
        in_thread(count, two)
        eventually("both are done", lambda: len(done) == 2)
        assert one.Counter("/counter").value == 50


def barriers(hosts):
    with client(hosts) as one, client(hosts) as two:
        barrier = Barrier(one, "/barrier")
        barrier.create()
        passed = []
        thread = in_thread(lambda: passed.append(Barrier(two, "/barrier").wait(PATIENCE)))
        assert not passed
        barrier.remove()
        thread.join(PATIENCE)
        assert passed == [True]
        steps = []

        def both(zk):
            double = DoubleBarrier(zk, "/double", 2)
            double.enter()
            steps.append("in")
            double.leave()
            steps.append("out")

        threads = [in_thread(both, one), in_thread(both, two)]
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(steps) == ["in", "in", "out", "out"], steps


def party(hosts):
    with client(hosts) as one, client(hosts) as two:
        mine, yours = one.Party("/party", "one"), two.Party("/party", "two")
        mine.join()
        yours.join()
        assert len(mine) == 2 and len(yours) == 2
        yours.leave()
        eventually("one is left", lambda: list(mine) == ["one"])


def tree_cache(hosts):
    with client(hosts) as zk, client(hosts) as other:
        other.ensure_path("/cache/a")
        other.set("/cache/a", b"1")
        cache = TreeCache(zk, "/cache")
        events = []

        def listen(event):
            data = event.event_data
            events.append((event.event_type, data.path if data else None))

        cache.listen(listen)
        cache.start()
        eventually("it is filled", lambda: (TreeEvent.INITIALIZED, None) in events)
        assert cache.get_data("/cache/a").data == b"1"
        other.create("/cache/b", b"2")
        # It lists the children when it has heard of a change: one that is gone by then was never in it.
        eventually("it has it", lambda: (TreeEvent.NODE_ADDED, "/cache/b") in events)
        other.set("/cache/a", b"3")
        other.delete("/cache/b")
        eventually("it follows", lambda: (TreeEvent.NODE_REMOVED, "/cache/b") in events)
        eventually("it is up to date", lambda: cache.get_data("/cache/a").data == b"3")
        assert cache.get_children("/cache") == frozenset(["a"])
        cache.close()


def partitioner(hosts):
    with client(hosts) as one, client(hosts) as two:
        parts = []

        def take(zk, name):
            partitioner = zk.SetPartitioner(
                "/parts", set=(1, 2, 3, 4), identifier=name, time_boundary=0.2
            )
            while not partitioner.failed:
                if partitioner.acquired:
                    mine = list(partitioner)
                    if len(mine) == 2:
                        parts.append(mine)
                        return
                if partitioner.release:
                    partitioner.release_set()
                elif partitioner.allocating:
                    partitioner.wait_for_acquire(1)

        in_thread(take, one, "one")
        in_thread(take, two, "two")
        eventually("both have a half", lambda: len(parts) == 2)
        assert sorted(parts[0] + parts[1]) == [1, 2, 3, 4], parts


run(
    [
        data_and_children_watches,
        lock_is_held_by_one,
        lock_passes_on_when_its_session_closes,
        read_and_write_locks,
        semaphore,
        election,
        queues,
        counter,
        barriers,
        party,
        tree_cache,
        partitioner,
    ],
    sys.argv[1],
)
