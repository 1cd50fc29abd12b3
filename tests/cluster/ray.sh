#!/usr/bin/env bash
# ray.sh start|stop|kill|second FOLDER [RAYLET]: a head and one more raylet on this machine, all of it in FOLDER.
# FOLDER/address is what launcher.address takes.
set -euo pipefail
D=$(realpath -m "$2")
PYTHON=${PYTHON:-python3}
export RAY_USAGE_STATS_ENABLED=0

free_port() {
    "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

begin() {  # its processes are a group of their own, by whose number they are ended
    setsid "$PYTHON" -m ray.scripts.scripts start "${@:2}" --num-cpus=2 --num-gpus=0 \
        --object-store-memory=80000000 --disable-usage-stats --block > "$D/$1.log" 2>&1 &
    echo $! > "$D/$1.pid"
}

start() {
    mkdir -p "$D"
    local port
    port=$(free_port)
    echo "127.0.0.1:$port" > "$D/address"
    begin head --head --port="$port" --node-ip-address=127.0.0.1 --include-dashboard=false --temp-dir="$D/t"
    for _ in $(seq 240); do
        grep -q "Ray runtime started" "$D/head.log" && break
        sleep 0.5
    done
    second
}

second() {
    begin second --address="$(cat "$D/address")" --node-ip-address=127.0.0.1
    for _ in $(seq 240); do
        grep -q "Ray runtime started" "$D/second.log" && return
        sleep 0.5
    done
    tail -n 5 "$D"/*.log >&2
    return 1
}

stop() {
    for pid in "$D"/*.pid; do
        [ -s "$pid" ] && kill -"${1:-TERM}" -- "-$(cat "$pid")" 2> /dev/null || true
    done
}

case $1 in
    start) start ;;
    stop) stop TERM; sleep 2; stop KILL ;;
    second) second ;;  # again, after it was killed
    kill) kill -KILL -- "-$(cat "$D/$3.pid")" ;;
    *) echo "ray.sh start|stop|kill|second FOLDER [head|second]" >&2; exit 2 ;;
esac
