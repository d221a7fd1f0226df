#!/usr/bin/env bash
# ZooKeeper's clients on three ZooKeeper servers and on three of our nodes, and on one of each, on this machine
# and in one run. Needs Debian's `zookeeper` package (`apt-get install zookeeper`); stops what it started.
#
#   benches/wire.sh [writes|reads|watches|idle]
set -euo pipefail
cd "$(dirname "$0")/.."

jar=/usr/share/java/zookeeper.jar
if ! command -v java >/dev/null || [ ! -e "$jar" ]; then
    echo "skipped: ZooKeeper is not installed (apt-get install zookeeper)"
    exit 0
fi
classpath="$(printf '%s:' /usr/share/java/{zookeeper,zookeeper-jute,slf4j-api,slf4j-nop,netty-all,commons-cli,commons-io,snappy-java,metrics-core}.jar)"
classpath="$classpath$(printf '%s:' /usr/share/java/netty-*.jar)"
# Ten thousand connections, at both ends.
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"

cargo bench --features zookeeper --bench wire --no-run

# On the disk that holds the build, like our own nodes' logs.
mkdir -p target/tmp
dir="$(mktemp -d "$PWD/target/tmp/wire.XXXXXX")"
pids=()
stop() {
    if [ "${#pids[@]}" -gt 0 ]; then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap stop EXIT

# The fourth is alone.
for id in 1 2 3 4; do
    mkdir -p "$dir/$id"
    echo "$id" >"$dir/$id/myid"
    cat >"$dir/$id/zoo.cfg" <<CONFIGURATION
tickTime=2000
initLimit=10
syncLimit=5
dataDir=$dir/$id
clientPort=$((21840 + id))
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
CONFIGURATION
    if [ "$id" -ne 4 ]; then
        for peer in 1 2 3; do
            echo "server.$peer=127.0.0.1:$((21850 + peer)):$((21860 + peer))" >>"$dir/$id/zoo.cfg"
        done
    fi
    java -Xmx512m -cp "$classpath" org.apache.zookeeper.server.quorum.QuorumPeerMain \
        "$dir/$id/zoo.cfg" >"$dir/$id/out" 2>&1 &
    pids+=($!)
done

# A server that is not yet part of a quorum says that it isn't serving.
for id in 1 2 3 4; do
    serving=
    for _ in $(seq 120); do
        if exec 3<>"/dev/tcp/127.0.0.1/$((21840 + id))"; then
            printf srvr >&3
            if grep -q '^Mode: ' <&3; then
                serving=yes
            fi
            exec 3>&-
        fi 2>/dev/null
        if [ -n "$serving" ]; then
            break
        fi
        sleep 0.5
    done
    if [ -z "$serving" ]; then
        echo "server $id does not serve:" >&2
        tail -5 "$dir/$id/out" >&2
        exit 1
    fi
done

ZOOKEEPER_ENSEMBLE=127.0.0.1:21841,127.0.0.1:21842,127.0.0.1:21843 ZOOKEEPER_ALONE=127.0.0.1:21844 \
    timeout 600 cargo bench --features zookeeper --bench wire -- "$@"
