#!/usr/bin/env bash
# Three nodes of Garage (https://garagehq.deuxfleurs.fr, `cargo install garage`) on this machine's loopback, with three copies of
# everything, a bucket and a key; all of it in a temporary directory that is removed at the end. Its settings are what it comes with:
# a write is acknowledged by two nodes, which have not synced it to the disk.
#
#     benches/room/garage.sh                                   # until it is interrupted; prints how it is reached
#     benches/room/garage.sh cargo bench --bench room --       # runs a command, with these arguments at its end
#
# CAN_SYNC_BENCH_DIR: below which directory, as for the benches. GARAGE: the program. GARAGE_PORT: the first of six free ports.
set -euo pipefail

garage=${GARAGE:-garage}
first=${GARAGE_PORT:-39100}
bucket=can-sync-bench
region=garage
command -v "$garage" >/dev/null || { echo "garage.sh: there is no '$garage': cargo install garage" >&2; exit 1; }

dir=$(mktemp -d "${CAN_SYNC_BENCH_DIR:-${TMPDIR:-/tmp}}/garage.XXXXXX")
pids=()

finish() {
    set +e
    trap '' INT TERM
    kill "${pids[@]}" 2>/dev/null
    for pid in "${pids[@]}"; do
        # Ten seconds each, for what it has not written yet.
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "garage.sh: $1" >&2
    { tail -n 20 "$dir"/*.log 2>/dev/null || true; } >&2
    exit 1
}

# Tries a command for a minute.
eventually() {
    local what=$1
    shift
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || fail "$what: a node has ended"; done
        sleep 0.2
    done
    fail "$what: not within a minute"
}

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# The first node answers for all.
ask() { "$garage" -c "$dir/1.toml" "$@"; }

# All nodes are there, and know it.
is_healthy() { [[ $(ask health 2>/dev/null) == *HEALTHY* ]]; }

secret=$(random 32)
umask 077
for n in 1 2 3; do
    rpc=$((first + n - 1)) s3=$((first + n + 2))
    for port in $rpc $s3; do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is taken: set GARAGE_PORT"; fi
    done
    cat >"$dir/$n.toml" <<CONFIG
metadata_dir = "$dir/$n/meta"
data_dir = "$dir/$n/data"
db_engine = "lmdb"
replication_factor = 3
rpc_bind_addr = "127.0.0.1:$rpc"
rpc_public_addr = "127.0.0.1:$rpc"
rpc_secret = "$secret"

[s3_api]
s3_region = "$region"
api_bind_addr = "127.0.0.1:$s3"
CONFIG
    RUST_LOG=garage=warn "$garage" -c "$dir/$n.toml" server >"$dir/$n.log" 2>&1 &
    pids+=($!)
done

for n in 1 2 3; do
    eventually "node $n" "$garage" -c "$dir/$n.toml" status
    node=$("$garage" -c "$dir/$n.toml" node id -q)
    ((n == 1)) || eventually "node $n meets the first one" ask node connect "$node"
    eventually "a role for node $n" ask layout assign -z "zone$n" -c 1T "${node%%@*}"
done
ask layout apply --version 1 >/dev/null || fail "the layout is not taken"
eventually "all nodes are healthy" is_healthy

key_id=GK$(random 12) key=$(random 32)
eventually "the bucket" ask bucket create "$bucket"
ask key import --yes -n bench "$key_id" "$key" >/dev/null || fail "the key is not taken"
ask bucket allow --read --write --owner "$bucket" --key "$key_id" >/dev/null || fail "the key opens nothing"
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key_id" "$key" >"$dir/credentials"

arguments=(--endpoint "http://127.0.0.1:$((first + 3))" --bucket "$bucket" --credentials-file "$dir/credentials" --region "$region")
if (($#)); then
    "$@" "${arguments[@]}"
else
    echo "${arguments[@]}"
    wait -n "${pids[@]}" || true
    fail "a node has ended"
fi
