"""The command line of the development cluster."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields

from . import cluster, machines, network
from .spec import Mistake, Spec
from .tools import PATH, ToolFailed, require

FAILED, MISTAKE = 1, 2
_ABOUT = """A real Slurm cluster on this machine. Its nodes are namespaces with a slurmd, pretended GPUs and
a network link each, whose rate can be limited; they can be crashed, cut off, mended and booted again.
Needs root."""


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line says, and exit."""
    options = _parser().parse_args(argv)
    try:
        require(slurm=not getattr(options, "no_slurm", True))
        options.do(options)
    except (Mistake, ToolFailed) as error:
        print(f"devcluster: {error}", file=sys.stderr)
        sys.exit(MISTAKE if isinstance(error, Mistake) else FAILED)


def _up(options: argparse.Namespace) -> None:
    leaves = options.leaves or (2 if options.nodes >= 4 else 1)
    spec = Spec(
        options.name,
        options.nodes,
        options.gpus,
        options.cpus,
        options.memory,
        leaves,
        slurm=not options.no_slurm,
    )
    if not cluster.up(spec, options.rate):
        print(f"cluster {spec.name} is up already", file=sys.stderr)
    _show(spec)


def _down(options: argparse.Namespace) -> None:
    if not cluster.down(options.name):
        print(f"no cluster {options.name} was up", file=sys.stderr)


def _status(options: argparse.Namespace) -> None:
    spec = Spec.read(options.name)
    if options.json:
        found = {**asdict(spec), "nodes": [asdict(node) for node in cluster.nodes(spec)]}
        print(json.dumps(found, indent=2))
    else:
        _show(spec)


def _run(options: argparse.Namespace) -> None:
    spec = Spec.read(options.name)
    host = spec.checked_host(options.node or spec.login)
    user = options.user or os.environ.get("SUDO_USER") or "root"
    argv = machines.entering(host, options.argv, user)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, {**os.environ, "PATH": PATH})


def _crash(spec: Spec, host: str, _options: argparse.Namespace) -> None:
    machines.crash(host)


def _start(spec: Spec, host: str, _options: argparse.Namespace) -> None:
    machines.boot(spec, host)


def _cut(spec: Spec, host: str, _options: argparse.Namespace) -> None:
    network.cut(spec, host)


def _mend(spec: Spec, host: str, _options: argparse.Namespace) -> None:
    network.cut(spec, host, connected=True)


def _shape(spec: Spec, host: str, options: argparse.Namespace) -> None:
    network.shape(spec, host, None if options.rate == "off" else options.rate)


def _each(options: argparse.Namespace) -> None:
    """Do ``options.to_node`` to the nodes named, or to all where the verb may do without names."""
    spec = Spec.read(options.name)
    for host in [spec.checked_host(host) for host in options.nodes or spec.hosts]:
        options.to_node(spec, host, options)


def _show(spec: Spec) -> None:
    rows: list[tuple[str, ...]] = [("node", "address", "state", "link", "sent", "received", "within")]
    for node in cluster.nodes(spec):
        rate = node.link.rate_bits_per_s
        link = f"{rate / 1e6:g} Mbit/s" if rate else "unlimited"
        counts = [f"{count / 1e6:.1f} MB" for count in (node.link.sent, node.link.received, node.link.local)]
        rows.append((node.name, node.address, node.state, link if node.link.connected else "cut", *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _parser() -> argparse.ArgumentParser:
    defaults = {field.name: field.default for field in fields(Spec)}
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--name", default=defaults["name"], help="which cluster: several can be up (default: %(default)s)"
    )
    parser = argparse.ArgumentParser(prog="devcluster", description=_ABOUT, allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, does: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=does, description=does, parents=[common], allow_abbrev=False)

    up = verb("up", "bring it up; nothing is left of it should that fail")
    for option, field, unit in (
        ("--nodes", "nodes", "how many"),
        ("--gpus", "gpus", "pretended ones, per node"),
        ("--cpus", "cpus", "per node, as Slurm counts them"),
        ("--memory", "memory_mib", "MiB per node, as Slurm counts it"),
    ):
        up.add_argument(option, type=int, default=defaults[field], help=f"{unit} (default: %(default)s)")
    up.add_argument("--leaves", type=int, help="leaf switches (default: 2 from 4 nodes on, else 1)")
    up.add_argument("--rate", help="limit of every link, as 200mbit (default: none)")
    up.add_argument("--no-slurm", action="store_true", help="the nodes and their network alone")
    up.set_defaults(do=_up)

    verb("down", "take it down with all that runs on it, leaving nothing").set_defaults(do=_down)

    status = verb("status", "each node: its state, its link, and the bytes that went over it and within it")
    status.add_argument("--json", action="store_true", help="for programs, in bytes and bits per second")
    status.set_defaults(do=_status)

    run = verb("run", "run a command on the login node, as sbatch, squeue, scontrol")
    run.add_argument("--node", help="run it on this node instead")
    run.add_argument("--user", help="as this user (default: who called sudo, or root)")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD")
    run.set_defaults(do=_run)

    for name, to_node, does in (
        ("crash", _crash, "kill everything that runs on a node, at once"),
        ("start", _start, "boot a node that was crashed"),
        ("cut", _cut, "pull the cable of a node"),
        ("mend", _mend, "put the cable back"),
    ):
        each = verb(name, does)
        each.add_argument("nodes", nargs="+", metavar="NODE")
        each.set_defaults(do=_each, to_node=to_node)

    shape = verb("shape", "limit the link of nodes, in both directions")
    shape.add_argument("rate", metavar="RATE", help="as 200mbit; off: no limit")
    shape.add_argument("nodes", nargs="*", metavar="NODE", help="default: all")
    shape.set_defaults(do=_each, to_node=_shape)
    return parser
