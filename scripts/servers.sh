# shellcheck shell=bash
# Shared by the scripts that start servers. It is sourced, never run, and sets `root`, `servers` and `me`.
#
# Everything is in target/servers (set WALCAT_SERVERS_DIR to share another directory between work trees):
#   kafka-libs/        Apache Kafka's jars                    kafka/NAME/   one cluster
#   postgres/          PostgreSQL 14, 16, 17, 18 from npm     pg/NAME/      one PostgreSQL
#   template/          new data directories from initdb       lock          held while one of these is created

me=$(basename "$0")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "${WALCAT_SERVERS_DIR:-$root/target/servers}"
servers=$(cd "${WALCAT_SERVERS_DIR:-$root/target/servers}" && pwd)

# The user's PGSERVICE or PGSSLMODE would affect our clients.
# shellcheck disable=SC2086 # a list of names
unset ${!PG@}

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() {
    say "$*"
    exit 1
}
# The head comment of a script is its help.
help() {
    awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
    exit 0
}
usage_error() {
    say "$* (see $me --help)"
    exit 2
}

# locked COMMAND...: one at a time among all scripts of this tree.
locked() {
    (
        flock 9
        "$@"
    ) 9>"$servers/lock"
}

# pick_port FILE: writes a port that nothing listens on, and no server of this tree owns, to FILE. Below the kernel's
# ephemeral range, where an outgoing connection could take it while its owner is restarted.
pick_port() { locked pick_port_locked "$1"; }
pick_port_locked() {
    local port
    while :; do
        port=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
        if grep --quiet --line-regexp --fixed-strings --recursive --include='port*' --exclude-dir=data "$port" \
            "$servers/pg" "$servers/kafka" 2>/dev/null; then continue; fi
        if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
        echo "$port" >"$1"
        return
    done
}

# runs PID TEXT: is PID alive, and TEXT in its command line? A pid file may outlive its process.
runs() {
    [ -n "$1" ] && [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" |
        grep --quiet --fixed-strings -e "$2"
}

# wait_gone PID SECONDS: false if the process is still running after that.
wait_gone() {
    local tries=$(($2 * 20))
    while [ -d "/proc/$1" ]; do
        # a zombie has exited; only its parent can reap it
        if grep --quiet '^State:.Z' "/proc/$1/status" 2>/dev/null; then return 0; fi
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.05
    done
}

# make_certificates DIR: a temporary CA (ca.crt) and a server certificate for localhost (server.crt, server.key).
make_certificates() (
    mkdir -p "$1"
    cd "$1" || exit
    umask 077
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key
    openssl req -new -x509 -key ca.key -subj '/CN=walcat throw-away CA' -days 365 -out ca.crt \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign'
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server.key
    openssl req -new -key server.key -subj '/CN=localhost' -out server.csr
    printf '%s\n' 'subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1' 'extendedKeyUsage = serverAuth' >server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile server.ext \
        -out server.crt 2>/dev/null
    chmod 644 ca.crt server.crt
)

# --- PostgreSQL

# PostgreSQL does not run as root, so root's servers run as `postgres` or `nobody`. If that user cannot access this tree (for
# example under /root), the servers are in /var/tmp, and target/servers/elsewhere contains the path.
pg_user=
pg_servers=$servers
if [ "$(id -u)" -eq 0 ]; then
    pg_user=nobody
    if id postgres >/dev/null 2>&1; then pg_user=postgres; fi
fi
as_pg() {
    if [ -z "$pg_user" ]; then
        "$@"
    else
        (cd / && exec setpriv --reuid="$pg_user" --regid="$(id -g "$pg_user")" --init-groups "$@")
    fi
}
if ! as_pg test -x "$servers"; then
    if [ ! -d "$(cat "$servers/elsewhere" 2>/dev/null)" ]; then
        mktemp --directory /var/tmp/walcat-servers.XXXXXX >"$servers/elsewhere"
        chmod 755 "$(cat "$servers/elsewhere")"
    fi
    pg_servers=$(cat "$servers/elsewhere")
fi

# pg_bindir VERSION
pg_bindir() {
    case $1 in
    15) echo /usr/lib/postgresql/15/bin ;;
    14 | 16 | 17 | 18) echo "$pg_servers/postgres/node_modules/postgres-$1/native/bin" ;;
    *) usage_error "invalid PostgreSQL version $1: use 14, 15, 16, 17 or 18" ;;
    esac
}
# Debian's clients work with every version; npm's packages have none.
# shellcheck disable=SC2034 # for the scripts that source this
pg_client=/usr/lib/postgresql/15/bin

# --- Apache Kafka

# kafka_tool CLASS ARGUMENT...: a JVM that starts fast, for tools that run for a second.
kafka_tool() {
    java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$servers/kafka-libs/*" \
        -Dlog4j2.configurationFile="$root/tests/servers/log4j2-tools.yaml" "$@"
}

# --- for scripts that start servers

# take_lines COMMAND...: sets a variable for each KEY=VALUE line that the command prints, such as pg-up and kafka-up do.
take_lines() {
    local lines line
    lines=$("$@")
    while IFS= read -r line; do printf -v "${line%%=*}" '%s' "${line#*=}"; done <<<"$lines"
}

# end PID SIGNAL SECONDS: ends our own child; its exit status, or 137 if it had to be killed.
end() {
    local status=0
    kill -"$2" "$1" 2>/dev/null || true
    wait_gone "$1" "$3" || kill -KILL "$1"
    wait "$1" || status=$?
    return "$status"
}
