#!/usr/bin/env bash
# Trains on two hosts and compares with one. The hosts are two network namespaces of this machine where these are allowed
# (root), with a network of their own between them; otherwise two names for this machine.
#
# usage: bash two_hosts.sh GDN [FOLDER]     GDN: the gdn command; FOLDER: where results go; default: a temporary one
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gdn=$(realpath "$1")
out=${2:-$(mktemp -d)}
a=gdn$$a b=gdn$$b # the hosts' names
network=10.77.0
mkdir -p "$out"
rm -rf "$out/one" "$out/two"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"; { ip netns del $a; ip netns del $b; } 2>/dev/null || true' EXIT

make_namespaces() {
  ip netns add $a && ip netns add $b &&
    ip link add gdn0 netns $a type veth peer name gdn0 netns $b &&
    ip -n $a addr add $network.1/24 dev gdn0 && ip -n $b addr add $network.2/24 dev gdn0 &&
    ip -n $a link set gdn0 up && ip -n $b link set gdn0 up &&
    ip -n $a link set lo up && ip -n $b link set lo up && unshare --uts true
}

printf '%s slots=1\n%s slots=1\n' $a $b >"$out/hostfile"
launch=(mpirun -n 2 --hostfile "$out/hostfile" --bind-to none --mca plm_rsh_agent "$here/agent.sh")
[ "$(id -u)" -ne 0 ] || launch+=(--allow-run-as-root)
if make_namespaces 2>/dev/null; then
  export GDN_HOSTS=namespaces
  # The network between the hosts, for mpirun's own connections and for messages.
  launch+=(--mca oob_tcp_if_include $network.0/24 --mca btl_tcp_if_include $network.0/24 --mca btl self,tcp)
  launch=("$here/agent.sh" $a "${launch[@]}")
else
  export GDN_HOSTS=names GDN_FOLDER=$temporary
fi

"$gdn" data "$here/../../LICENSE" -o "$out/data.h5" --heldout 0.1
# One sequence a batch, so that every sequence lies on both hosts.
train=("$gdn" train --data "$out/data.h5" --steps 30 --warmup 10 --lr 1e-3 --context 1024 --batch-tokens 1024 --width 32
  --key-dim 16 --value-dim 16 --mlp 64 --eval-tokens 1000 --log-every 10 --threads 1)
"${train[@]}" --out "$out/one" >/dev/null
"${launch[@]}" "${train[@]}" --out "$out/two"
value() { sed -n 's/.*done: .*heldout_loss=\([0-9.]*\).*/\1/p' "$out/$1/log.txt"; }
echo "result: hosts=$GDN_HOSTS heldout_loss=$(value two) on_one_host=$(value one)"
[ $GDN_HOSTS = names ] || ip -n $a -s link show gdn0 | awk '/RX/ {getline; print "bytes received by the first host: " $1}'
awk -v x="$(value one)" -v y="$(value two)" 'BEGIN { exit !(x > 0 && x - y < 0.001 && y - x < 0.001) }' ||
  { echo "two_hosts: the losses differ" >&2; exit 1; }
