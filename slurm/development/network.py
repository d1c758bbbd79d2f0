"""The nodes' network: a namespace each with one adapter, eth0, joined by a switch in the login node's.

What processes of one node say to each other stays in its namespace, on lo; what they say to another node
crosses both adapters, whose rate can be limited and whose bytes are counted.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import LOGIN, Mistake, Spec
from .tools import ToolFailed, call

_ETC = Path("/etc/netns")
"""`ip netns exec NAME` shows what lies in NAME here in place of the machine's files in /etc."""
_RATE = re.compile(r"\d+(\.\d+)?[kmg]bit")
_BURST = "256kb"
"""The bucket of the limiter, some packets: small messages pass at once, as on a real slow link."""


@dataclass(frozen=True)
class Link:
    """A node's link and what went over it since the node was made, in bytes, frame headers included."""

    connected: bool
    rate_bits_per_s: int | None
    """None: as fast as the machine can."""
    sent: int
    received: int
    local: int
    """Said by processes of the node to each other."""


def spaces(name: str) -> list[str]:
    """The network namespaces of the cluster ``name`` that exist, be it up or half made."""
    ours = re.compile(rf"{name}-(\d+|{LOGIN})")
    listed = (line.split()[0] for line in call("ip", "netns", "list").splitlines())
    return [space for space in listed if ours.fullmatch(space)]


def make(spec: Spec) -> None:
    """Namespaces, adapters and switch; in all of them host names resolve, and nothing else does."""
    etc = spec.folder / "etc"
    etc.mkdir()
    everyone = (*spec.hosts, spec.login)
    names = ["127.0.0.1 localhost", *(f"{spec.address(host)} {host}" for host in everyone)]
    (etc / "hosts").write_text("".join(f"{line}\n" for line in names))
    # With no resolver to ask, a look-up of an unknown name fails at once instead of after minutes.
    (etc / "resolv.conf").touch()
    _ETC.mkdir(exist_ok=True)
    for host in everyone:
        (_ETC / host).symlink_to(etc)
    call("ip", "-batch", "-", lines=[f"netns add {host}" for host in everyone])
    switch = ["link set lo up", "link add switch type bridge"]
    switch += [f"address add {spec.address(spec.login)}/24 dev switch", "link set switch up"]
    for host in spec.hosts:
        port = _port(spec, host)
        switch += [f"link add {port} type veth peer name eth0 netns {host}"]
        switch += [f"link set {port} master switch up"]
    call("ip", "-n", spec.login, "-batch", "-", lines=switch)
    for host in spec.hosts:
        own = ["link set lo up", f"address add {spec.address(host)}/24 dev eth0", "link set eth0 up"]
        call("ip", "-n", host, "-batch", "-", lines=own)


def remove(name: str) -> None:
    """Take down all that `make` made, also where it did not finish."""
    for space in spaces(name):
        call("ip", "netns", "delete", space)
    ours = Spec(name).folder / "etc"
    for link in _ETC.glob(f"{name}-*"):
        if link.is_symlink() and link.readlink() == ours:
            link.unlink()
    with contextlib.suppress(OSError):  # somebody else's are in it, or there is none
        _ETC.rmdir()


def cut(spec: Spec, host: str, connected: bool = False) -> None:
    """Pull the cable of ``host`` at the switch; ``connected``: put it back."""
    call("ip", "-n", spec.login, "link", "set", _port(spec, host), "up" if connected else "down")


def shape(spec: Spec, host: str, rate: str | None) -> None:
    """Limit the link of ``host`` to ``rate``, written as 200mbit, in both directions; None: no limit.

    Raises:
        Mistake: ``rate`` cannot be read.
    """
    if rate is not None and not _RATE.fullmatch(rate):
        raise Mistake(f"rate {rate}: must be a number and a unit, as 200mbit or 1gbit, or off")
    for space, device in ((host, "eth0"), (spec.login, _port(spec, host))):
        limiter = ["tc", "-n", space, "qdisc"]
        if rate is not None:
            bucket = ["tbf", "rate", rate, "burst", _BURST, "latency", "50ms"]
            call(*limiter, "replace", "dev", device, "root", *bucket)
        elif "tbf" in call(*limiter, "show", "dev", device):
            call(*limiter, "delete", "dev", device, "root")


def links(spec: Spec) -> dict[str, Link]:
    """The link of each node."""
    ports = {port["ifname"]: "UP" in port["flags"] for port in _json("ip", "-j", "-n", spec.login, "link")}
    return {host: _link(spec, host, ports[_port(spec, host)]) for host in spec.hosts}


def _link(spec: Spec, host: str, connected: bool) -> Link:
    counted = {d["ifname"]: d["stats64"] for d in _json("ip", "-j", "-s", "-n", host, "link")}
    queues = _json("tc", "-j", "-n", host, "qdisc", "show", "dev", "eth0")
    rates = [queue["options"]["rate"] * 8 for queue in queues if queue["kind"] == "tbf"]
    return Link(
        connected,
        rates[0] if rates else None,
        sent=counted["eth0"]["tx"]["bytes"],
        received=counted["eth0"]["rx"]["bytes"],
        local=counted["lo"]["tx"]["bytes"],
    )


def _port(spec: Spec, host: str) -> str:
    if host == spec.login:
        raise Mistake(
            f"{host} holds the switch and has no link of its own: choose of {', '.join(spec.hosts)}"
        )
    return f"port{spec.hosts.index(host) + 1}"


def _json(*argv: str) -> list[dict[str, Any]]:
    try:
        parsed: list[dict[str, Any]] = json.loads(call(*argv) or "[]")
    except json.JSONDecodeError as error:
        raise ToolFailed(f"{' '.join(argv)}: no JSON: {error}") from None
    return parsed
