"""What the scripts share: clients that are closed at the end, and conditions that are awaited."""
import contextlib
import sys
import threading
import time

from kazoo.client import KazooClient

PATIENCE = 60


def eventually(what, condition):
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("never came true: " + what)
        time.sleep(0.005)


@contextlib.contextmanager
def client(hosts, **options):
    zk = KazooClient(hosts=hosts, timeout=options.pop("timeout", 10), **options)
    zk.start(timeout=PATIENCE)
    try:
        yield zk
    finally:
        zk.stop()
        zk.close()


def raises(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        return error
    raise AssertionError("%s did not raise %s" % (call, kind))


def run(cases, hosts):
    """Runs every case, prints one line for each, and fails where one fails."""
    failed = []
    for case in cases:
        begin = time.monotonic()
        watchdog = threading.Timer(120, lambda name=case.__name__: hang(name))
        watchdog.daemon = True
        watchdog.start()
        try:
            case(hosts)
            verdict = "ok"
        except BaseException:
            import traceback

            traceback.print_exc()
            verdict = "FAILED"
            failed.append(case.__name__)
        watchdog.cancel()
        print("%-44s %s (%.2f s)" % (case.__name__, verdict, time.monotonic() - begin), flush=True)
    print("%d cases, %d failed" % (len(cases), len(failed)), flush=True)
    sys.exit(1 if failed else 0)


def hang(name):
    import faulthandler
    import os

    print("%s hangs" % name, flush=True)
    faulthandler.dump_traceback()
    os._exit(3)
