"""A run of the quickstart that is disturbed at random moments, and what it loses by that: nothing.

    sudo python -m benchmarks.chaos --seed 3 --table docs/reliability.md

Trains the quickstart twice, once undisturbed and once under the faults of `FAULTS`, at moments drawn by
``--seed``, and compares the two: `benchmarks.disturb.verdict`. What the model is fed is written down by
witnesses inside the ranks, not by the trainer. The disturbed run's folder is a small tmpfs, so that it can
be filled up, which takes root. After ``--pause`` seconds, if given, both are stopped between two faults; the
same command goes on, with everything so far kept in ``--work``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.disturb.faults import KINDS, Outcome, inflict
from benchmarks.disturb.schedule import Planned, schedule
from benchmarks.disturb.session import NotSurvived, Session
from benchmarks.disturb.verdict import Verdict, judge
from orchestrate.config import DType
from orchestrate.train.verify import TOLERANCE

FAULTS = {
    "kill": 9,
    "kill-again": 3,
    "stop": 4,
    "ask": 3,
    "supervisor": 5,
    "truncate": 4,
    "flip": 4,
    "disk": 3,
    "half": 2,
}
FIRST, GAP, AFTER = 15, 8, 15
"""Steps before the first fault, for each fault, and after the last."""
BATCH = 16
DISK = "96m"
OVERRIDES = (
    "experiment=quickstart",
    f"train.global_batch={BATCH}",
    "checkpoint.every=5",
    "faults.hang_s=25",
    # As `orchestrate verify` does: a small epsilon makes rounding errors into updates of full size.
    "optim.eps=1e-3",
)
START, END = "<!-- chaos -->", "<!-- end of chaos -->"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--pause", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--table", type=Path, help="write the table here, between its marks")
    told = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left mounted or running
    deadline = time.monotonic() + told.pause
    planned = schedule(FAULTS, told.seed, FIRST, GAP)
    steps = FIRST + len(planned) * GAP + AFTER
    overrides = [*OVERRIDES, f"train.steps={steps}"]
    undisturbed = Session(told.work / "undisturbed", overrides)
    disturbed = Session(told.work / "disturbed", overrides)
    record = told.work / "faults.jsonl"
    if not train(undisturbed, deadline):
        return 75
    with small_disk(disturbed.run_dir):
        if not disturb(disturbed, planned, told.seed, record, deadline):
            return 75
        verdict = judge(disturbed.folder, undisturbed.folder, steps, BATCH, TOLERANCE[DType.fp32])
    text = report(read(record), verdict)
    print(text)
    if told.table is not None:
        publish(told.table, text)
    return 0


def train(session: Session, deadline: float) -> bool:
    """Whether the run has come to its end before ``deadline``."""
    done = session.folder / "done"
    if done.exists():
        return True
    with session:
        session.start()
        while session.ended() is None:
            if time.monotonic() > deadline:
                session.stop()
                return False
            time.sleep(0.1)
        if (status := session.ended()) != 0:
            raise NotSurvived(f"undisturbed, it ended with {status}: {session.last_words()}")
    done.touch()
    return True


def disturb(session: Session, planned: Sequence[Planned], seed: int, record: Path, deadline: float) -> bool:
    """Inflict what is still due; whether the run has come to its end before ``deadline``."""
    with session:
        session.start()
        for fault in planned[len(read(record)) :]:
            session.wait_for_step(fault.step)
            if time.monotonic() > deadline:
                session.stop()
                return False
            time.sleep(fault.delay_s)
            outcome = inflict(fault.kind, session, random.Random(f"{seed}/{fault.number}"))
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            print(fault.number + 1, outcome, flush=True)
        if (status := session.wait_to_end()) != 0:
            raise NotSurvived(f"in the end it left with {status}: {session.last_words()}")
        session.wait_for_quiet()
    return True


def read(record: Path) -> list[Outcome]:
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """``folder`` as a file system of its own; what is in it outlives the context in ``folder``.kept."""
    kept = folder.with_name(f"{folder.name}.kept")
    for path in (folder, kept):
        path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run(["rm", "-rf", str(kept)], check=True)
            subprocess.run(["cp", "-a", str(folder), str(kept)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def report(outcomes: Sequence[Outcome], verdict: Verdict) -> str:
    """The table, and what was found in the end, as Markdown."""
    lines = [
        "| fault | times | recovery, median | worst | steps made again, median | most |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind, (name, _) in KINDS.items():
        lines.append(row(name, [outcome for outcome in outcomes if outcome.kind == kind]))
    lines.append(row("**together**", outcomes))
    changed = (
        "the layout never changed"
        if verdict.changed is None
        else f"from step {verdict.changed} on, where layouts changed, within {verdict.loss:.1e} of it"
    )
    lines += [
        "",
        f"{len(outcomes)} faults in {verdict.steps} steps, {verdict.starts} starts, {verdict.repeated} steps"
        " made again. Nothing is lost: in the final weights are samples 0 to"
        f" {verdict.samples - 1}, once each, with the same tokens as in the undisturbed run. The loss of the"
        f" first {verdict.equal} steps is the undisturbed run's, bit by bit; {changed}. Weights and moments"
        f" at the end lie {verdict.weights:.1e} apart at most. No process was left behind.",
    ]
    return "\n".join(lines)


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """One line of the table."""
    seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    repeated = [outcome.repeated for outcome in outcomes]
    times = [f"{f(seconds):.1f} s" for f in (statistics.median, max)] if seconds else ["training went on", ""]
    again = [f"{f(repeated):g}" for f in (statistics.median, max)] if repeated else ["", ""]
    return f"| {' | '.join([name, str(len(outcomes)), *times, *again])} |"


def publish(path: Path, text: str) -> None:
    """Put ``text`` between the marks in ``path``, under the date and the command."""
    before, rest = path.read_text(encoding="utf-8").split(START)
    when = f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores:"
    path.write_text(f"{before}{START}\n{when}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
