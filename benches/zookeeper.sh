#!/usr/bin/env bash
# Three ZooKeeper servers against three of our nodes, on this machine, in one run. Needs Debian's
# `zookeeper` package (`apt-get install zookeeper`) and nothing running; stops what it started.
set -euo pipefail
cd "$(dirname "$0")/.."

jar=/usr/share/java/zookeeper.jar
if ! command -v java >/dev/null || [ ! -e "$jar" ]; then
    echo "skipped: ZooKeeper is not installed (apt-get install zookeeper)"
    exit 0
fi
classpath="$(printf '%s:' /usr/share/java/{zookeeper,zookeeper-jute,slf4j-api,slf4j-nop,netty-all,commons-cli,commons-io,snappy-java,metrics-core}.jar)"
classpath="$classpath$(printf '%s:' /usr/share/java/netty-*.jar)"

cargo bench --bench zookeeper --no-run

# On the disk that holds the build, like our own nodes' logs.
mkdir -p target/tmp
dir="$(mktemp -d "$PWD/target/tmp/zookeeper.XXXXXX")"
pids=()
stop() {
    if [ "${#pids[@]}" -gt 0 ]; then
        kill "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap stop EXIT

for id in 1 2 3; do
    mkdir -p "$dir/$id"
    echo "$id" >"$dir/$id/myid"
    cat >"$dir/$id/zoo.cfg" <<CONFIGURATION
tickTime=2000
initLimit=10
syncLimit=5
dataDir=$dir/$id
clientPort=$((21810 + id))
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
server.1=127.0.0.1:21821:21831
server.2=127.0.0.1:21822:21832
server.3=127.0.0.1:21823:21833
CONFIGURATION
    java -Xmx512m -cp "$classpath" org.apache.zookeeper.server.quorum.QuorumPeerMain \
        "$dir/$id/zoo.cfg" >"$dir/$id/out" 2>&1 &
    pids+=($!)
done

# A server that is not yet part of a quorum closes its port, or answers nothing.
for id in 1 2 3; do
    serving=
    for _ in $(seq 60); do
        if exec 3<>"/dev/tcp/127.0.0.1/$((21810 + id))"; then
            sleep 1
            exec 3>&-
            serving=yes
            break
        fi 2>/dev/null
        sleep 0.5
    done
    if [ -z "$serving" ]; then
        echo "server $id does not serve:" >&2
        tail -5 "$dir/$id/out" >&2
        exit 1
    fi
done
sleep 5

ZOOKEEPER_SERVERS=127.0.0.1:21811,127.0.0.1:21812,127.0.0.1:21813 \
    timeout 300 cargo bench --bench zookeeper
