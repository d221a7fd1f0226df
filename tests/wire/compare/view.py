"""What a server says, with what must differ made comparable: zxids by the writes that they stand for, no times, no session ids."""
import struct

from wire import TIMEOUT

STAT = "!qqqqiiiqiiq"


class Body:
    """What is left of a frame."""

    def __init__(self, data):
        self.data = data

    def take(self, length):
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def integer(self):
        return struct.unpack("!i", self.take(4))[0]

    def text(self):
        return self.take(max(self.integer(), 0))

    def texts(self):
        return [self.text() for _ in range(self.integer())]


class Zxid(int):
    """One that is compared by which write it is, not by its number."""


class Pairs:
    """Which zxid of ours is which of ZooKeeper's."""

    def __init__(self):
        self.theirs_by_ours = {}
        self.ours_by_theirs = {}

    def same(self, ours, theirs):
        if isinstance(ours, Zxid) and isinstance(theirs, Zxid):
            is_first = self.theirs_by_ours.setdefault(ours, theirs) == theirs
            return is_first and self.ours_by_theirs.setdefault(theirs, ours) == ours
        if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
            # Each of them, so that zxids behind a difference are known as well.
            pairs = [self.same(*pair) for pair in zip(ours, theirs)]
            return len(ours) == len(theirs) and all(pairs)
        return ours == theirs


class View:
    def stat(self, data):
        czxid, mzxid, _, _, version, cversion, aversion, owner, length, children, pzxid = struct.unpack(
            STAT, data
        )
        # Zxid 0 is the same for both: nothing has been.
        zxids = [zxid and Zxid(zxid) for zxid in (czxid, mzxid, pzxid)]
        return zxids + [version, cversion, aversion, bool(owner), length, children]

    def results(self, body):
        """What a multi or a multiRead has come to."""
        seen = []
        while True:
            opcode, done, error = body.integer(), body.take(1), body.integer()
            if done != b"\0":
                return seen
            seen += [opcode, error]
            if opcode in (1, 15):
                seen.append(body.text())
            if opcode == 4:
                seen.append(body.text())
            if opcode == 8:
                seen.append(sorted(body.texts()))
            if opcode in (4, 5, 15):
                seen.append(self.stat(body.take(68)))
            if opcode == -1:
                seen.append(body.integer())

    def part(self, part, body):
        match part:
            # An ACL: of what `auth` expands to there is no order.
            case "a":
                return [sorted((body.integer(), body.text(), body.text()) for _ in range(body.integer()))]
            case "s":
                return [self.stat(body.take(68))]
            case "b":
                return [body.text()]
            # In no order: ZooKeeper keeps them in sets.
            case "l":
                return [sorted(body.texts())]
            case "w":
                return [sorted((body.text(), body.text()) for _ in range(body.integer()))]
            case "m":
                return self.results(body)

    def reply(self, frame, shape):
        if frame is None:
            return "closed"
        if frame is TIMEOUT:
            return "nothing"
        xid, zxid, error = struct.unpack("!iqi", frame[:16])
        body = Body(frame[16:])
        if xid == -1:
            return ("event", body.data)
        seen = [xid, error]
        for part in shape if error == 0 else "":
            seen += self.part(part, body)
        return tuple(seen + [body.data])

    def welcome(self, frame):
        if frame is None:
            return "closed"
        if frame is TIMEOUT:
            return "nothing"
        version, timeout, session, length = struct.unpack("!iiqi", frame[:20])
        return (version, timeout, bool(session), length, frame[20 + length :])
