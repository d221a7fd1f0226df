import static org.apache.zookeeper.ZooDefs.Ids.CREATOR_ALL_ACL;
import static org.apache.zookeeper.ZooDefs.Ids.OPEN_ACL_UNSAFE;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;

/**
 * ZooKeeper's own Java client over its API. Usage: Operations FIRST SECOND, two servers of one cluster. When it
 * prints "stop the first server" its caller is to do so.
 */
public class Operations {
    static final int TIMEOUT_MS = 10_000;

    /** What a watcher has heard. */
    static final class Heard implements Watcher {
        final BlockingQueue<WatchedEvent> events = new LinkedBlockingQueue<>();

        @Override
        public void process(WatchedEvent event) {
            events.add(event);
        }

        WatchedEvent next() throws InterruptedException {
            WatchedEvent event = events.poll(30, TimeUnit.SECONDS);
            check(event != null, "no event came");
            return event;
        }

        void expect(EventType type, String path) throws InterruptedException {
            WatchedEvent event;
            do {
                // Every watcher is also told of the connection.
                event = next();
            } while (event.getType() == EventType.None);
            check(event.getType() == type && path.equals(event.getPath()), event + ", not " + type + " " + path);
        }

        void expectState(KeeperState state) throws InterruptedException {
            WatchedEvent event;
            do {
                event = next();
            } while (event.getType() != EventType.None);
            check(event.getState() == state, event + ", not " + state);
        }
    }

    interface Call {
        void run() throws Exception;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object found, Object expected) {
        check(expected.equals(found), found + ", not " + expected);
    }

    static void fails(KeeperException.Code code, Call call) throws Exception {
        try {
            call.run();
        } catch (KeeperException exception) {
            equal(exception.code(), code);
            return;
        }
        throw new AssertionError("it did not fail with " + code);
    }

    static ZooKeeper connect(String servers, Heard heard) throws Exception {
        ZooKeeper client = new ZooKeeper(servers, TIMEOUT_MS, heard);
        heard.expectState(KeeperState.SyncConnected);
        return client;
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    public static void main(String[] servers) throws Exception {
        Heard heard = new Heard();
        try (ZooKeeper client = connect(servers[0], heard)) {
            createsInEveryMode(client);
            readsAndWrites(client);
            listsChildren(client);
            keepsAcls(client, servers[0]);
            multis(client);
            watches(client);
            persistentWatches(client);
            setsOfWatches(client);
            callbacksComeInOrder(client);
        }
        sessions(servers);
        expires(servers[1]);
        moves(servers);
        System.out.println("all operations");
        System.exit(0);
    }

    static void createsInEveryMode(ZooKeeper client) throws Exception {
        equal(client.create("/java", bytes("root"), OPEN_ACL_UNSAFE, CreateMode.PERSISTENT), "/java");
        equal(client.create("/java/e", null, OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL), "/java/e");
        equal(client.create("/java/s-", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL),
                "/java/s-0000000001");
        equal(client.create("/java/s-", null, OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL),
                "/java/s-0000000002");
        Stat stat = new Stat();
        client.create("/java/c", bytes("12345"), OPEN_ACL_UNSAFE, CreateMode.CONTAINER, stat);
        equal(stat.getDataLength(), 5);
        equal(stat.getEphemeralOwner(), 0L);
        client.create("/java/t", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, stat, 3_600_000);
        equal(client.create("/java/t-", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL, stat,
                3_600_000), "/java/t-0000000005");
        equal(stat.getEphemeralOwner(), 0L);
        equal(client.exists("/java/e", false).getEphemeralOwner(), client.getSessionId());
        fails(KeeperException.Code.NODEEXISTS,
                () -> client.create("/java", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
        fails(KeeperException.Code.NONODE,
                () -> client.create("/none/c", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
        fails(KeeperException.Code.NOCHILDRENFOREPHEMERALS,
                () -> client.create("/java/e/c", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
        fails(KeeperException.Code.INVALIDACL,
                () -> client.create("/java/x", null, Collections.emptyList(), CreateMode.PERSISTENT));
    }

    static void readsAndWrites(ZooKeeper client) throws Exception {
        Stat stat = new Stat();
        equal(text(client.getData("/java", false, stat)), "root");
        equal(stat.getVersion(), 0);
        equal(client.setData("/java", bytes("more"), 0).getVersion(), 1);
        fails(KeeperException.Code.BADVERSION, () -> client.setData("/java", bytes("x"), 0));
        client.setData("/java", null, -1);
        byte[] none = client.getData("/java", false, stat);
        check(none == null || none.length == 0, "no data");
        equal(stat.getVersion(), 2);
        check(client.exists("/java/none", false) == null, "it isn't there");
        fails(KeeperException.Code.NONODE, () -> client.getData("/java/none", false, null));
        fails(KeeperException.Code.NOTEMPTY, () -> client.delete("/java", -1));
        fails(KeeperException.Code.BADVERSION, () -> client.delete("/java/c", 7));
        fails(KeeperException.Code.NONODE, () -> client.delete("/java/none", -1));
        byte[] large = new byte[1_000_000];
        Arrays.fill(large, (byte) 7);
        client.create("/java/large", large, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        check(Arrays.equals(client.getData("/java/large", false, null), large), "all of it comes back");
        client.delete("/java/large", 0);
        CompletableFuture<Integer> synced = new CompletableFuture<>();
        client.sync("/java", (code, path, context) -> synced.complete(code), null);
        equal(synced.get(30, TimeUnit.SECONDS), 0);
    }

    static void listsChildren(ZooKeeper client) throws Exception {
        Set<String> expected = new TreeSet<>(
                Arrays.asList("e", "s-0000000001", "s-0000000002", "c", "t", "t-0000000005"));
        equal(new TreeSet<>(client.getChildren("/java", false)), expected);
        Stat stat = new Stat();
        equal(client.getChildren("/java", false, stat).size(), 6);
        equal(stat.getNumChildren(), 6);
        // Seven were created, one of them was deleted.
        equal(stat.getCversion(), 8);
        equal(client.getAllChildrenNumber("/java"), 6);
        List<String> ephemerals = client.getEphemerals();
        Collections.sort(ephemerals);
        equal(ephemerals, Arrays.asList("/java/e", "/java/s-0000000002"));
        equal(client.getEphemerals("/java/s"), Arrays.asList("/java/s-0000000002"));
    }

    static void keepsAcls(ZooKeeper client, String server) throws Exception {
        Stat stat = new Stat();
        equal(client.getACL("/java", stat), OPEN_ACL_UNSAFE);
        fails(KeeperException.Code.INVALIDACL,
                () -> client.create("/java/mine", null, CREATOR_ALL_ACL, CreateMode.PERSISTENT));
        client.addAuthInfo("digest", bytes("ann:secret"));
        client.create("/java/mine", bytes("own"), CREATOR_ALL_ACL, CreateMode.PERSISTENT);
        List<ACL> acl = client.getACL("/java/mine", stat);
        equal(acl.size(), 1);
        equal(acl.get(0).getId().getScheme(), "digest");
        check(acl.get(0).getId().getId().startsWith("ann:"), acl.toString());
        equal(client.whoAmI().stream().filter(info -> info.getAuthScheme().equals("digest")).count(), 1L);
        Heard heard = new Heard();
        try (ZooKeeper other = connect(server, heard)) {
            fails(KeeperException.Code.NOAUTH, () -> other.getData("/java/mine", false, null));
            fails(KeeperException.Code.NOAUTH, () -> other.setData("/java/mine", null, -1));
            fails(KeeperException.Code.NOAUTH,
                    () -> other.create("/java/mine/c", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            other.addAuthInfo("digest", bytes("ann:secret"));
            equal(text(other.getData("/java/mine", false, null)), "own");
        }
        List<ACL> open = new ArrayList<>(OPEN_ACL_UNSAFE);
        open.add(new ACL(1, new Id("ip", "10.0.0.0/8")));
        equal(client.setACL("/java/mine", open, 0).getAversion(), 1);
        fails(KeeperException.Code.BADVERSION, () -> client.setACL("/java/mine", open, 0));
        equal(client.getACL("/java/mine", stat), open);
        client.delete("/java/mine", -1);
        Heard failed = new Heard();
        try (ZooKeeper other = connect(server, failed)) {
            other.addAuthInfo("nope", bytes("x"));
            failed.expectState(KeeperState.AuthFailed);
        }
    }

    static void multis(ZooKeeper client) throws Exception {
        List<OpResult> results = client.multi(Arrays.asList(
                Op.create("/java/m", bytes("1"), OPEN_ACL_UNSAFE, CreateMode.PERSISTENT.toFlag()),
                Op.setData("/java/m", bytes("2"), 0),
                Op.check("/java/m", 1),
                Op.delete("/java/m", 1),
                Op.create("/java/m", bytes("3"), OPEN_ACL_UNSAFE, CreateMode.PERSISTENT.toFlag())));
        equal(results.size(), 5);
        equal(((OpResult.CreateResult) results.get(0)).getPath(), "/java/m");
        equal(((OpResult.SetDataResult) results.get(1)).getStat().getVersion(), 1);
        check(results.get(2) instanceof OpResult.CheckResult, results.get(2).toString());
        check(results.get(3) instanceof OpResult.DeleteResult, results.get(3).toString());
        try {
            client.multi(Arrays.asList(
                    Op.delete("/java/m", -1), Op.check("/java/none", -1), Op.delete("/java", -1)));
            throw new AssertionError("it was committed");
        } catch (KeeperException exception) {
            equal(exception.code(), KeeperException.Code.NONODE);
            int[] codes = exception.getResults().stream()
                    .mapToInt(result -> ((OpResult.ErrorResult) result).getErr()).toArray();
            equal(Arrays.toString(codes), "[0, -101, -2]");
        }
        check(client.exists("/java/m", false) != null, "nothing of it was done");
        client.transaction().setData("/java/m", bytes("4"), 0).delete("/java/m", 1).commit();
        check(client.exists("/java/m", false) == null, "both were done");
        List<OpResult> reads = client.multi(
                Arrays.asList(Op.getChildren("/java/c"), Op.getData("/java/c"), Op.getData("/java/none")));
        equal(((OpResult.GetChildrenResult) reads.get(0)).getChildren(), Collections.emptyList());
        equal(text(((OpResult.GetDataResult) reads.get(1)).getData()), "12345");
        equal(((OpResult.ErrorResult) reads.get(2)).getErr(), -101);
    }

    static void watches(ZooKeeper client) throws Exception {
        Heard absent = new Heard();
        Heard data = new Heard();
        Heard children = new Heard();
        check(client.exists("/java/w", absent) == null, "not yet");
        client.create("/java/w", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        absent.expect(EventType.NodeCreated, "/java/w");
        client.getData("/java/w", data, null);
        client.getChildren("/java/w", children);
        client.setData("/java/w", bytes("x"), -1);
        data.expect(EventType.NodeDataChanged, "/java/w");
        client.create("/java/w/c", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        children.expect(EventType.NodeChildrenChanged, "/java/w");
        client.delete("/java/w/c", -1);
        client.getData("/java/w", data, null);
        client.getChildren("/java/w", children);
        client.delete("/java/w", -1);
        data.expect(EventType.NodeDeleted, "/java/w");
        children.expect(EventType.NodeDeleted, "/java/w");
        check(absent.events.isEmpty() && data.events.isEmpty() && children.events.isEmpty(), "each once");
    }

    static void persistentWatches(ZooKeeper client) throws Exception {
        Heard plain = new Heard();
        Heard recursive = new Heard();
        // On two znodes: on one, the client hands the recursive watcher what the plain one is sent.
        for (String path : Arrays.asList("/java/p", "/java/q")) {
            client.create(path, null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        }
        client.addWatch("/java/p", plain, AddWatchMode.PERSISTENT);
        client.addWatch("/java/q", recursive, AddWatchMode.PERSISTENT_RECURSIVE);
        for (int turn = 0; turn < 2; turn++) {
            for (String path : Arrays.asList("/java/p", "/java/q")) {
                client.setData(path, null, -1);
                client.create(path + "/c", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
                client.setData(path + "/c", null, -1);
                client.delete(path + "/c", -1);
            }
            plain.expect(EventType.NodeDataChanged, "/java/p");
            plain.expect(EventType.NodeChildrenChanged, "/java/p");
            plain.expect(EventType.NodeChildrenChanged, "/java/p");
            recursive.expect(EventType.NodeDataChanged, "/java/q");
            recursive.expect(EventType.NodeCreated, "/java/q/c");
            recursive.expect(EventType.NodeDataChanged, "/java/q/c");
            recursive.expect(EventType.NodeDeleted, "/java/q/c");
        }
        client.removeAllWatches("/java/p", Watcher.WatcherType.Any, false);
        plain.expect(EventType.PersistentWatchRemoved, "/java/p");
        client.setData("/java/p", null, -1);
        client.sync("/java/p", (code, path, context) -> { }, null);
        client.getData("/java/p", false, null);
        check(plain.events.stream().noneMatch(event -> event.getType() == EventType.NodeDataChanged), "removed");
    }

    static void setsOfWatches(ZooKeeper client) throws Exception {
        Heard first = new Heard();
        Heard second = new Heard();
        client.create("/java/r", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        client.getData("/java/r", first, null);
        client.getData("/java/r", second, null);
        // One of two watchers: the client asks the server whether there is any, and keeps the other.
        client.removeWatches("/java/r", first, Watcher.WatcherType.Data, false);
        first.expect(EventType.DataWatchRemoved, "/java/r");
        client.setData("/java/r", null, -1);
        second.expect(EventType.NodeDataChanged, "/java/r");
        client.getChildren("/java/r", first);
        client.removeWatches("/java/r", first, Watcher.WatcherType.Children, false);
        first.expect(EventType.ChildWatchRemoved, "/java/r");
        fails(KeeperException.Code.NOWATCHER,
                () -> client.removeWatches("/java/r", first, Watcher.WatcherType.Any, false));
        client.delete("/java/r", -1);
    }

    static void callbacksComeInOrder(ZooKeeper client) throws Exception {
        List<Integer> order = Collections.synchronizedList(new ArrayList<>());
        CompletableFuture<Void> last = new CompletableFuture<>();
        client.create("/java/o", null, OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        for (int at = 0; at < 1_000; at++) {
            int number = at;
            if (at % 2 == 0) {
                client.setData("/java/o", bytes("" + at), -1, (code, path, context, stat) -> order.add(number), null);
            } else {
                client.getData("/java/o", false, (code, path, context, data, stat) -> {
                    order.add(text(data).equals("" + (number - 1)) ? number : -1);
                    if (number == 999) {
                        last.complete(null);
                    }
                }, null);
            }
        }
        last.get(30, TimeUnit.SECONDS);
        for (int at = 0; at < 1_000; at++) {
            equal(order.get(at), at);
        }
        client.delete("/java/o", -1);
    }

    /** Ephemerals vanish with their session, for which another client's watch need not ask. */
    static void sessions(String[] servers) throws Exception {
        Heard heard = new Heard();
        Heard watch = new Heard();
        try (ZooKeeper client = connect(servers[1], heard)) {
            ZooKeeper other = connect(servers[0], new Heard());
            check(other.getSessionTimeout() == TIMEOUT_MS, "the timeout asked for");
            other.create("/java/gone", null, OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            CompletableFuture<Integer> synced = new CompletableFuture<>();
            client.sync("/", (code, path, context) -> synced.complete(code), null);
            equal(synced.get(30, TimeUnit.SECONDS), 0);
            check(client.exists("/java/gone", watch) != null, "seen on another server");
            other.close();
            watch.expect(EventType.NodeDeleted, "/java/gone");
        }
    }

    /** A session that somebody else has closed is expired for its client. */
    static void expires(String server) throws Exception {
        Heard heard = new Heard();
        ZooKeeper client = connect(server, heard);
        Heard again = new Heard();
        ZooKeeper same = new ZooKeeper(server, TIMEOUT_MS, again, client.getSessionId(), client.getSessionPasswd());
        again.expectState(KeeperState.SyncConnected);
        equal(same.getSessionId(), client.getSessionId());
        same.close();
        WatchedEvent event;
        do {
            event = heard.next();
        } while (event.getState() != KeeperState.Expired);
        fails(KeeperException.Code.SESSIONEXPIRED, () -> client.exists("/", false));
        client.close();
        byte[] wrong = new byte[16];
        ZooKeeper stranger = new ZooKeeper(server, TIMEOUT_MS, again, 42, wrong);
        again.expectState(KeeperState.Closed);
        do {
            event = again.next();
        } while (event.getState() != KeeperState.Expired);
        stranger.close();
    }

    /** Its server is stopped: the session goes on at the other one, with its ephemerals and watches. */
    static void moves(String[] servers) throws Exception {
        Heard heard = new Heard();
        ZooKeeper client = connect(servers[0], heard);
        Heard other = new Heard();
        try (ZooKeeper writer = connect(servers[1], other)) {
            client.create("/java/moved", bytes("0"), OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            client.create("/java/kept", bytes("0"), OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            Heard once = new Heard();
            Heard persistent = new Heard();
            client.getData("/java/kept", once, null);
            client.addWatch("/java/kept", persistent, AddWatchMode.PERSISTENT);
            long session = client.getSessionId();
            client.updateServerList(servers[0] + "," + servers[1]);
            System.out.println("stop the first server");
            heard.expectState(KeeperState.Disconnected);
            writer.setData("/java/kept", bytes("1"), -1);
            heard.expectState(KeeperState.SyncConnected);
            equal(client.getSessionId(), session);
            // It happened meanwhile.
            once.expect(EventType.NodeDataChanged, "/java/kept");
            equal(client.exists("/java/moved", false).getEphemeralOwner(), session);
            writer.setData("/java/kept", bytes("2"), -1);
            persistent.expect(EventType.NodeDataChanged, "/java/kept");
            client.close();
            check(writer.exists("/java/moved", false) == null, "gone with its session");
        }
    }
}
