"""Compare this toolkit's step with other toolkits' on the same work, in turn, as ratios.

    python benchmarks/against_peers.py --peers PEERS --python PEERS_PYTHON --table docs/performance.md

PEERS is a folder of benchmark scripts with the interface of ``step_time.py`` (one JSON line each), and
PEERS_PYTHON the interpreter of an environment with those toolkits. Machines drift, so every round runs
each toolkit once, in an order that rotates, and what is compared is the median over rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

OURS = "orchestrate"
PEERS = {
    "torch-native": ["native.py"],
    "DeepSpeed": ["ds.py"],
    "torchtitan": ["titan.py"],
    "megatron-core": ["mcore.py"],
}
LAYOUTS = ("1,1,1", "2,1,1", "1,2,1", "1,1,2", "2,2,1", "2,2,2")


@dataclass(frozen=True)
class Result:
    """One toolkit in one layout, over all rounds."""

    seconds: float
    """Median over rounds of the median step."""
    sent_mib: float | None
    peak_mib: float
    """Resident memory of the largest rank at its highest during the measured steps."""


def main() -> None:
    """Run the rounds and print (or write) the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers' scripts")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the peers")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="these peers")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), metavar="TP,PP,DP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--table", type=Path, help="write the table here, as Markdown")
    args = parser.parse_args()
    layouts = [tuple(map(int, text.split(","))) for text in args.layouts]

    commands = {name: [args.python, *command] for name, command in PEERS.items() if name in args.only}
    ours = [sys.executable, str(Path(__file__).with_name("step_time.py"))]
    runs: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = defaultdict(list)
    jobs = [
        (layout, name)
        for layout in layouts
        for turn in range(args.rounds)
        for name in _rotated([OURS, *commands], turn)
    ]
    try:
        for layout, name in track(jobs, "measuring", console=Console(stderr=True)):
            tp, pp, dp = layout
            degrees = ["--tp", str(tp), "--pp", str(pp), "--dp", str(dp), "--steps", str(args.steps)]
            command, folder = (ours, Path.cwd()) if name == OURS else (commands[name], args.peers)
            outcome = _run([*command, *degrees], folder)
            if outcome is not None:
                runs[name, layout].append(outcome)
    except KeyboardInterrupt:
        print("interrupted: the table is of what was measured", file=sys.stderr)
    results = {key: _summary(outcomes) for key, outcomes in runs.items()}
    table = _table(results, layouts, [OURS, *commands])
    print(table)
    if args.table:
        _insert(args.table, table, args)


def _rotated(names: list[str], turn: int) -> list[str]:
    turn %= len(names)
    return names[turn:] + names[:turn]


def _run(command: list[str], folder: Path) -> dict[str, Any] | None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"bench"')]
    outcome: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    if outcome is None or "median_s" not in outcome:
        print(f"no result: {' '.join(command)}\n{done.stdout}{done.stderr}"[-2000:], file=sys.stderr)
        return None
    return outcome


def _summary(outcomes: list[dict[str, Any]]) -> Result:
    sent = outcomes[0]["lo_mib_per_step"]
    return Result(
        statistics.median(outcome["median_s"] for outcome in outcomes),
        sent,
        statistics.median(max(outcome["step_rss_mib"]) for outcome in outcomes),
    )


def _table(
    results: dict[tuple[str, tuple[int, ...]], Result], layouts: list[tuple[int, ...]], names: list[str]
) -> str:
    lines = [
        "| layout | " + " | ".join(names) + " | ours / fastest peer |",
        "|---" * (len(names) + 2) + "|",
    ]
    for layout in layouts:
        row = {name: results[name, layout] for name in names if (name, layout) in results}
        cells = [_cell(row.get(name)) for name in names]
        peers = [result.seconds for name, result in row.items() if name != OURS]
        ratio = f"{row[OURS].seconds / min(peers):.2f}" if OURS in row and peers else "–"
        lines.append(f"| tp{layout[0]} pp{layout[1]} dp{layout[2]} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines)


def _cell(result: Result | None) -> str:
    if result is None:
        return "failed"
    sent = "?" if result.sent_mib is None else f"{result.sent_mib:.0f}"
    return f"{result.seconds:.2f} s, {sent}, {result.peak_mib:.0f}"


def _insert(path: Path, table: str, args: argparse.Namespace) -> None:
    """Put ``table`` between the marks in ``path``, under the date and the command."""
    start, end = "<!-- table -->", "<!-- end of table -->"
    before, rest = path.read_text().split(start)
    after = rest.split(end)[1]
    command = f"python benchmarks/against_peers.py --rounds {args.rounds} --steps {args.steps}"
    when = f"{datetime.date.today().isoformat()}, `{command} --peers PEERS --python PEERS_PYTHON`:"
    path.write_text(f"{before}{start}\n{when}\n\n{table}\n{end}{after}")


if __name__ == "__main__":
    main()
