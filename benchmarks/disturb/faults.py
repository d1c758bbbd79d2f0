"""What is done to a run, and what it does about it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.disturb.lineage import read_starts
from benchmarks.disturb.session import NotSurvived, Rank, Session
from launchers.devices import LOST_FILE
from orchestrate.train.checkpoint import found, problems

STARTING_S = 8.0
"""A rank that is killed while it starts is killed within so many seconds of that."""


@dataclass(frozen=True)
class Outcome:
    """How a run came over one fault."""

    kind: str
    step: int
    """The furthest step that a rank had begun."""
    what: str
    """What was done, to whom."""
    repeated: int
    """Steps that were made again."""
    seconds: float | None
    """From the fault to the end of the first step after it; None: training went on meanwhile."""


Inflict = Callable[[Session, random.Random], str]
"""Does it, and says to whom."""


def kill_a_rank(session: Session, rng: random.Random) -> str:
    return _signal(_victim(session, rng), signal.SIGKILL)


def kill_a_rank_twice(session: Session, rng: random.Random) -> str:
    """Kills another one before training has begun again."""
    gone = {rank.pid for rank in session.ranks()}
    text = _signal(_victim(session, rng), signal.SIGKILL)
    session.wait(
        lambda: len(session.ranks()) == len(gone) and not gone & {rank.pid for rank in session.ranks()},
        "the ranks to start again",
    )
    time.sleep(rng.uniform(0.0, STARTING_S))
    started = session.ranks()
    text += f", then {_signal(_victim(session, rng), signal.SIGKILL)}"
    _wait_for_the_end_of(started, session)
    return text


def stop_a_rank(session: Session, rng: random.Random) -> str:
    return _signal(_victim(session, rng), signal.SIGSTOP)


def ask_a_rank(session: Session, rng: random.Random) -> str:
    return _signal(rng.choice(session.ranks()), signal.SIGUSR1)


def kill_the_supervisor(session: Session, rng: random.Random) -> str:
    """Kills it, makes sure that nothing survives it, and starts it again on all devices."""
    os.kill(session.pid, signal.SIGKILL)
    session.wait_to_end()
    session.wait_for_quiet()
    repaired = session.run_dir / LOST_FILE
    text = f"pid {session.pid}"
    if repaired.exists():
        repaired.unlink()
        text += "; lost devices came back"
    session.start()
    return text


def truncate(session: Session, rng: random.Random) -> str:
    def harm(file: Path) -> str:
        size = rng.randrange(file.stat().st_size)
        os.truncate(file, size)
        return f"cut to {size} bytes"

    return _damage(session, rng, harm)


def flip_a_bit(session: Session, rng: random.Random) -> str:
    def harm(file: Path) -> str:
        data = bytearray(file.read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        return f"bit {bit} flipped"

    return _damage(session, rng, harm)


def fill_the_disk(session: Session, rng: random.Random) -> str:
    """Leaves no byte of the run's file system until a checkpoint could not be written."""
    before, ranks = len(session.notices()), session.ranks()
    filler = session.run_dir / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            _fill(file.fileno())
            session.wait(
                lambda: any("the checkpoint after step" in line for line in session.notices()[before:]),
                "somebody to say that the disk is full",
            )
    finally:
        filler.unlink(missing_ok=True)
    if session.ranks() != ranks:
        raise NotSurvived(f"a full disk ended ranks: {session.last_words()}")
    return session.notices()[-1]


def lose_half(session: Session, rng: random.Random) -> str:
    """Half of the devices, neighbours, die at once and are reported as lost."""
    ranks = session.ranks()
    half = len(ranks) // 2
    lost = rng.choice([ranks[:half], ranks[half:]])
    (session.run_dir / LOST_FILE).write_text("".join(f"{rank.device}\n" for rank in lost))
    for rank in lost:
        _signal(rank, signal.SIGKILL)
    return ", ".join(rank.device for rank in lost)


KINDS: dict[str, tuple[str, Inflict]] = {
    "kill": ("SIGKILL of a rank", kill_a_rank),
    "kill-again": ("SIGKILL of a rank, and of another while it starts again", kill_a_rank_twice),
    "stop": ("SIGSTOP of a rank", stop_a_rank),
    "ask": ("SIGUSR1 to one rank: stop at the next step", ask_a_rank),
    "supervisor": ("SIGKILL of the supervisor", kill_the_supervisor),
    "truncate": ("SIGKILL of a rank, the newest checkpoint truncated", truncate),
    "flip": ("SIGKILL of a rank, a bit of the newest checkpoint flipped", flip_a_bit),
    "disk": ("the disk full until a checkpoint was missed", fill_the_disk),
    "half": ("half of the devices lost", lose_half),
}
"""By name: what it is called in the table, and what does it."""


def inflict(kind: str, session: Session, rng: random.Random) -> Outcome:
    """Do it to a run that is making steps, and wait until it makes steps again.

    Raises:
        NotSurvived: it does not, or does something else than it should.
    """
    before, starts = {rank.pid for rank in session.ranks()}, len(read_starts(session.witness))
    began = time.time()
    what = KINDS[kind][1](session, rng)
    if kind == "disk":
        return Outcome(kind, session.furthest(), what, 0, None)

    def again() -> bool:
        beats = session.beats()
        return bool(beats) and not before & {b.pid for b in beats} and all(b.done for b in beats)

    session.wait(again, f"steps after {kind}: {what}")
    seconds = time.time() - began
    made = read_starts(session.witness)
    reached = made[starts - 1].reached
    return Outcome(kind, reached, what, reached - made[-1].loaded, seconds)


def _victim(session: Session, rng: random.Random) -> Rank:
    """Any rank, but never two in a row on one device, which would rightly count as broken."""
    rank = rng.choice([rank for rank in session.ranks() if rank.device != session.last_victim])
    session.last_victim = rank.device
    return rank


def _signal(rank: Rank, number: int) -> str:
    try:
        os.kill(rank.pid, number)
    except ProcessLookupError:
        raise NotSurvived(f"rank {rank.process} is gone before anybody touched it") from None
    return f"{rank.device}"


def _wait_for_the_end_of(ranks: Sequence[Rank], session: Session) -> None:
    old = {rank.pid for rank in ranks}
    session.wait(lambda: not old & {rank.pid for rank in session.ranks()}, "the other ranks to end")


def _damage(session: Session, rng: random.Random, harm: Callable[[Path], str]) -> str:
    """Kill a rank and, before anybody reads it again, harm a file of the newest whole checkpoint."""
    ranks, before = session.ranks(), len(session.notices())
    text = _signal(_victim(session, rng), signal.SIGKILL)
    _wait_for_the_end_of(ranks, session)
    whole = [one for one in found(session.run_dir) if not problems(one.path)]
    if len(whole) < 2:
        raise NotSurvived("there are no two checkpoints that are whole")
    file = rng.choice(sorted(whole[0].path.iterdir()))
    text += f"; {file.parent.name}/{file.name}: {harm(file)}"

    session.wait(
        lambda: any(f"{file.parent} is damaged ({file.name} " in line for line in session.notices()[before:]),
        f"{file} to be named",
    )
    return text


def _fill(descriptor: int) -> None:
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                os.write(descriptor, bytes(size))
        except OSError:
            continue
