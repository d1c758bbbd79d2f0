#!/usr/bin/env bash
# Nodes of a cluster on one machine: each a network namespace with one adapter, joined by a bridge in a
# namespace of its own. What ranks of one node say to each other stays in that namespace; between nodes
# it crosses the adapter, which `up` slows down in both directions.
#
#   emulated_nodes.sh up COUNT RATE     e.g. up 2 200mbit
#   emulated_nodes.sh down
#
# Needs root, iproute2 and the kernel's tbf queueing discipline. Node I is the namespace orchestrate-I
# with the address 10.211.0.I on eth0.
set -euo pipefail

name=orchestrate
switch=$name-switch
network=10.211.0

down() {
    local space
    for space in $(ip netns list | awk -v n="$name-" 'index($1, n) == 1 { print $1 }'); do
        ip netns delete "$space"
        rm -rf "/etc/netns/$space"
    done
}

up() {
    local count=$1 rate=$2 i space
    down
    trap 'down' ERR
    ip netns add "$switch"
    ip -n "$switch" link add bridge type bridge
    ip -n "$switch" link set bridge up
    for i in $(seq "$count"); do
        space=$name-$i
        # `ip netns exec` puts these in place of the machine's: with no resolver to ask, a look-up of an
        # unknown name or address fails at once instead of after minutes.
        mkdir -p "/etc/netns/$space"
        : > "/etc/netns/$space/resolv.conf"
        {
            echo "127.0.0.1 localhost"
            for j in $(seq "$count"); do echo "$network.$j node$((j - 1))"; done
        } > "/etc/netns/$space/hosts"
        ip netns add "$space"
        ip -n "$space" link set lo up
        ip link add eth0 netns "$space" type veth peer name "port$i" netns "$switch"
        ip -n "$space" address add "$network.$i/24" dev eth0
        ip -n "$space" link set eth0 up
        ip -n "$switch" link set "port$i" master bridge up
        # A bucket of some packets: small messages pass at once, as they do on a real slow link.
        tc -n "$space" qdisc replace dev eth0 root tbf rate "$rate" burst 256kb latency 50ms
        tc -n "$switch" qdisc replace dev "port$i" root tbf rate "$rate" burst 256kb latency 50ms
    done
}

case "${1:-}" in
    up) up "$2" "$3" ;;
    down) down ;;
    *) echo "usage: $0 up COUNT RATE | down" >&2; exit 2 ;;
esac
