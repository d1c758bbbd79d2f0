"""What the tests of restarts start: processes without torch that make steps, and fail as told.

``python -m tests.distributed.faulty_worker RUN_DIR BEHAVIOUR``; the beats are real ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from launchers.exits import GO_BACK, REQUEUE
from launchers.heartbeat import Heart, read_beats

CULPRIT = 1


def main(run_dir: Path, behaviour: str) -> None:
    process, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with (run_dir / f"starts-{process}").open("a") as file:
        file.write(json.dumps({"world": world, "pid": os.getpid()}) + "\n")
    start = len((run_dir / f"starts-{process}").read_text().splitlines())
    if behaviour == "asks":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: os._exit(REQUEUE))
    if behaviour == "deaf":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    if behaviour == "exits":
        sys.exit(3)
    heart = Heart(run_dir, process)
    if behaviour == "start" and process == CULPRIT:
        beats(run_dir, world)  # once all have started
        fail(run_dir, process, RuntimeError("cannot build the model"))
    last = 2 + start if behaviour == "device" else 3
    for step in range(1, last + 1):
        heart.begin(step)
        while any(beat.step < step for beat in beats(run_dir, world)):
            time.sleep(0.005)
        if step < last:
            heart.end(step)
    if behaviour in ("asks", "deaf"):
        while True:
            signal.pause()
    if behaviour == "astray" and start == 1:
        sys.exit(GO_BACK)
    fails = behaviour in ("final", "memory") or (behaviour == "once" and start == 1)
    if process == CULPRIT and (fails or behaviour == "device"):
        # A step is finished by all or by none.
        errors: dict[str, Exception] = {
            "final": type("Hopeless", (ValueError,), {"final": True})("nan"),
            "memory": MemoryError("CUDA out of memory"),
        }
        if behaviour in errors:
            fail(run_dir, process, errors[behaviour])
        os.kill(os.getpid(), signal.SIGKILL)
    if world > 1 and (fails or behaviour == "device"):
        while True:
            signal.pause()
    heart.end(last)


def beats(run_dir: Path, world: int) -> list:  # type: ignore[type-arg]
    """The beats of all processes of this start."""
    while len(found := read_beats(run_dir, world)) < world:
        time.sleep(0.005)
    return list(found.values())


def fail(run_dir: Path, process: int, error: Exception) -> None:
    record = {
        "time": time.time(),
        "traceback": "".join(traceback.format_exception(error)),
        "final": bool(getattr(error, "final", False)),
    }
    (run_dir / "logs" / f"failure-{process}.json").write_text(json.dumps(record))
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
