#!/usr/bin/env bash
# postgres.sh start|stop|restart|create FOLDER [DATABASE]: a PostgreSQL of one's own, all of it in FOLDER.
# It listens on 127.0.0.1 at the port in FOLDER/port; the user is `lab`, the password in FOLDER/password.
set -euo pipefail
D=$(realpath -m "$2")
B=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2> /dev/null | sort -V | tail -n 1)
[ -n "$B" ] || B=$(dirname "$(command -v initdb)")

as_owner() {  # PostgreSQL refuses root
    if [ "$(id -u)" = 0 ]; then runuser -u pgci -- "$@"; else "$@"; fi
}

control() {
    as_owner "$B/pg_ctl" -D "$D/db" -w -l "$D/log" -o \
        "-p $(cat "$D/port") -k $D -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200" "$@" > /dev/null
}

start() {
    mkdir -p "$D"
    if [ "$(id -u)" = 0 ]; then
        id pgci > /dev/null 2>&1 || useradd -r -M pgci
        chown pgci "$D"
    fi
    if [ ! -e "$D/db" ]; then
        [ -s "$D/password" ] || python3 -c 'import secrets; print(secrets.token_hex(8))' > "$D/password"
        python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])' > "$D/port"
        chmod 644 "$D/password"
        as_owner "$B/initdb" -D "$D/db" -U lab -A scram-sha-256 --pwfile="$D/password" -E UTF8 \
            --locale=C.UTF-8 > "$D/initdb.log"
    fi
    control start
}

case $1 in
    start) start ;;
    stop) control -m fast stop ;;
    restart) control -m fast restart ;;
    create) PGPASSWORD=$(cat "$D/password") "$B/createdb" -h 127.0.0.1 -p "$(cat "$D/port")" -U lab "$3" ;;
    *) echo "postgres.sh start|stop|restart|create FOLDER [DATABASE]" >&2; exit 2 ;;
esac
