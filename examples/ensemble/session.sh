#!/usr/bin/env bash
# Runs the session that README.md shows under "Three terminals", and checks every line of it. Ports and
# directories are others, so that it disturbs nobody; "…" in the README stands for anything. What nodes tell
# without being asked (lines that begin with "*") is compared where the README shows it.
#
#   examples/ensemble/session.sh [path of the built example]
set -euo pipefail
cd "$(dirname "$0")/../.."
program="${1:-target/debug/examples/ensemble}"
patience_seconds=60

directory="$(mktemp -d)"
declare -A pid input read_up_to

finish() {
    local code=$? terminal
    for terminal in "${!pid[@]}"; do
        kill "${pid[$terminal]}" 2>/dev/null || true
    done
    if [ "$code" -ne 0 ]; then
        tail -n 50 "$directory"/*.out >&2 || true
    fi
    rm -rf "$directory"
}
trap finish EXIT

# Four ports that nobody listens at.
free_ports() {
    local base port
    for base in $(shuf -i 2100-3200 -n 50); do
        for port in 1 2 3 4; do
            if (exec 3<>"/dev/tcp/127.0.0.1/$base$port") 2>/dev/null; then
                continue 2
            fi
        done
        echo "$base"
        return
    done
    echo "no free ports" >&2
    return 1
}

# Starts what was typed at a terminal's own prompt.
start() {
    local terminal="$1" arguments="$2"
    arguments="${arguments//\$PEERS/$peers}"
    arguments="${arguments//127.0.0.1:700/127.0.0.1:$ports}"
    arguments="${arguments///tmp\//$directory/}"
    if [ -n "${pid[$terminal]:-}" ]; then
        wait "${pid[$terminal]}"
    fi
    if [ -n "${input[$terminal]:-}" ]; then
        exec {input[$terminal]}>&-
    fi
    rm -f "$directory/$terminal.in"
    mkfifo "$directory/$terminal.in"
    # Split into words, as a shell does; it is our own README.
    # shellcheck disable=SC2086
    "$program" $arguments <"$directory/$terminal.in" >"$directory/$terminal.out" 2>&1 &
    pid[$terminal]=$!
    exec {input[$terminal]}>"$directory/$terminal.in"
    read_up_to[$terminal]=0
}

# The next whole line that a terminal shows.
next_line() {
    local terminal="$1" number=$((read_up_to[$1] + 1)) end=$((SECONDS + patience_seconds))
    while [ "$(wc -l <"$directory/$terminal.out")" -lt "$number" ]; do
        if [ "$SECONDS" -ge "$end" ]; then
            return 1
        fi
        sleep 0.05
    done
    read_up_to[$terminal]=$number
    line="$(sed -n "${number}p" "$directory/$terminal.out")"
}

expect() {
    local terminal="$1" expected="$2" pattern
    pattern="$(sed -e 's/[][\\*?]/\\&/g' -e 's/…/*/g' <<<"$expected")"
    while true; do
        if ! next_line "$terminal"; then
            echo "terminal $terminal: nothing more is shown instead of: $expected" >&2
            return 1
        fi
        # shellcheck disable=SC2053
        if [[ "$line" == $pattern ]]; then
            return
        fi
        if [[ "$line" != "* "* ]]; then
            echo "terminal $terminal: expected: $expected" >&2
            echo "terminal $terminal: found:    $line" >&2
            return 1
        fi
    done
}

ports="$(free_ports)"
peers=
terminal=
checked=0
# The section's text blocks.
session="$(awk '/^## /{here = ($0 == "## Three terminals")} /^```/{inside = here && $0 == "```text"; next} inside' README.md)"
while IFS= read -r shown; do
    case "$shown" in
    "") ;;
    "PEERS="*) peers="${shown#PEERS=}" ;;
    "# terminal "*) terminal="${shown##* }" ;;
    "\$ cargo run "*) start "$terminal" "${shown##* -- }" ;;
    "ensemble-$terminal>"*)
        typed="${shown#*>}"
        if [ -n "${typed// /}" ]; then
            typed="${typed///tmp\//$directory/}"
            echo "${typed# }" >&"${input[$terminal]}"
        fi
        ;;
    "ensemble-"*)
        echo "README.md: not in terminal $terminal: $shown" >&2
        exit 1
        ;;
    *)
        expect "$terminal" "$shown"
        checked=$((checked + 1))
        ;;
    esac
done <<<"$session"
if [ "$checked" -lt 20 ]; then
    echo "only $checked lines were compared" >&2
    exit 1
fi
for terminal in "${!pid[@]}"; do
    echo quit >&"${input[$terminal]}"
    wait "${pid[$terminal]}"
done
echo "the session of README.md: $checked lines are as shown"
