"""The same frames to a server of ours and to ZooKeeper, their replies compared field by field.

Usage: compare.py OURS ZOOKEEPER.JAR ARCHITECTURE.md. Starts ZooKeeper on a free port; both are to be empty.
Prints each request with both replies where they differ, and what was compared as a table. What may differ, and
why, is the table in ARCHITECTURE.md: it fails where something else differs, and where something listed doesn't.
"""
import sys

import cases
import connections
from view import Pairs, View
from wire import Peer, zookeeper

# The xids that the clients use for these.
XIDS = {101: -8, 105: -8, 11: -2, 100: -4}
TITLE = "| request | why it differs |"


def known_differences(path):
    """From the name of a request to the reason, from the table of the document."""
    known = {}
    with open(path) as file:
        lines = file.read().split(TITLE)[1].splitlines()[2:]
    for line in lines:
        if not line.startswith("|"):
            break
        names, reason = line.strip("| ").split(" | ")
        for name in names.split("; "):
            known[name] = reason
    return known


class Comparison:
    def __init__(self, addresses, known):
        self.addresses = addresses
        self.known = known
        self.differing = set()
        self.unexpected = 0
        self.view = View()
        self.pairs = Pairs()
        self.peers = None

    def judge(self, what, seen):
        if self.pairs.same(*seen):
            return
        self.differing.add(what)
        reason = self.known.get(what)
        self.unexpected += reason is None
        print("%s: %s" % (what, reason or "NOT EXPECTED"))
        print("  ours      %.500s\n  ZooKeeper %.500s" % (seen[0], seen[1]))

    def connect(self):
        self.peers = [Peer(address) for address in self.addresses]

    def request(self, at, what, opcode, body, shape, to_the_end=False):
        if opcode is cases.MARK:
            for peer in self.peers:
                peer.mark = peer.zxid
            return
        xid = XIDS.get(opcode, at + 1) if what != "setWatches with another xid" else 77
        seen = []
        for peer in self.peers:
            frames = peer.call(xid, opcode, body(peer) if callable(body) else body)
            if to_the_end and frames[-1] is not None:
                frames += peer.rest()
            seen.append([self.view.reply(frame, shape) for frame in frames])
        self.judge(what, seen)
        if any(ended in replies for ended in ("closed", "nothing") for replies in seen):
            self.connect()

    def run(self):
        """The groups, with how many requests were compared in each and how many of them differ."""
        table = []

        def group(name, wanted, each):
            before = len(self.differing)
            for at, case in enumerate(wanted):
                each(len(table) * 1000 + at, *case)
            table.append((name, len(wanted), len(self.differing) - before))

        self.connect()
        for name, wanted in cases.GROUPS.items():
            group(name, wanted, self.request)

        def alone(at, what, opcode, body, shape):
            self.connect()
            self.request(at, what, opcode, body, shape, True)

        group("what ends a connection", cases.ENDS, alone)

        def connection(at, what, case):
            self.judge(what, [case(address, self.view) for address in self.addresses])

        for name, wanted in connections.GROUPS.items():
            group(name, wanted, connection)
        return table


def main(ours, theirs, document):
    known = known_differences(document)
    names = [case[0] for wanted in list(cases.GROUPS.values()) + [cases.ENDS] for case in wanted]
    names += [case[0] for wanted in connections.GROUPS.values() for case in wanted]
    assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
    comparison = Comparison((ours, theirs), known)
    table = comparison.run()
    rows = ["| %s | %d | %d |" % row for row in table]
    print("| group | requests | differ |\n|---|---|---|\n" + "\n".join(rows))
    print("| all | %d | %d |" % (sum(row[1] for row in table), len(comparison.differing)))
    with open(document) as file:
        written = file.read().splitlines()
    changed = [row for row in rows if row not in written]
    for row in changed:
        print("%s has another row than %s" % (document, row))
    vanished = set(known) - comparison.differing
    for what in sorted(vanished):
        print("%s: listed, but it does not differ" % what)
    return comparison.unexpected + len(vanished) + len(changed)


with zookeeper(sys.argv[2]) as theirs:
    sys.exit(1 if main(sys.argv[1], theirs, sys.argv[3]) else 0)
