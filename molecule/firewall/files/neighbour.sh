#!/usr/bin/env bash
# What a neighbour on the same wire tries: neighbour.sh VICTIM PROBE LOOPBACK-TARGET CONTAINER-TARGETS. It routes packets for
# the victim's containers, and those for the victim's loopback, straight to the victim.
set -euo pipefail
victim=$1 probe=$2 loopback=$3 containers=$4
ip route replace 172.30.0.0/16 via "$victim"
# shellcheck disable=SC2086
python3 -c "$probe" $containers

restore() {
  ip route del 127.0.0.1 via "$victim"
  ip route add table local local 127.0.0.1 dev lo scope host
  ip route add table local local 127.0.0.0/8 dev lo scope host
}
# Answers come from what is its own loopback's address.
sysctl --quiet net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.all.accept_local=1
own=$(ip -4 -o address show dev eth0 | sed 's|.* inet \([0-9.]*\)/.*|\1|')
ip route del table local local 127.0.0.0/8
ip route del table local local 127.0.0.1
ip route add 127.0.0.1 via "$victim" src "$own"
trap restore EXIT
python3 -c "$probe" "$loopback"
