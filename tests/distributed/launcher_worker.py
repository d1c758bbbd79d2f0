"""What the launcher's tests start: one small process per device that behaves, or misbehaves, as told.

``python -m tests.distributed.launcher_worker RUN_DIR BEHAVIOUR [PROCESS]``: process number PROCESS behaves so
once all processes are up, the others wait until they are stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from launchers.exits import PORT_TAKEN

CHILD = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
)


def main(run_dir: Path, behaviour: str, culprit: int = 0) -> None:
    process = int(os.environ["RANK"])
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    if behaviour == "parent":
        child = subprocess.Popen([sys.executable, "-S", "-c", CHILD], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        pids.append(child.pid)
    record = {"pids": pids, "environment": dict(os.environ), "path": sys.path}
    # In one step, so that nobody reads half of it.
    (run_dir / f"draft-{process}").write_text(json.dumps(record))
    (run_dir / f"draft-{process}").rename(run_dir / f"up-{process}.json")
    if behaviour == "well" or (behaviour == "taken" and (run_dir / "met").exists()):
        return
    while len(list(run_dir.glob("up-*.json"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)
    if behaviour == "lost-peer":
        lost_peer(run_dir, process, culprit)
    elif behaviour != "wait" and process == culprit:
        {
            "raise": fail,
            "mistake": mistake,
            "exit": leave,
            "kill": die,
            "stubborn": leave,
            "parent": leave,
            "taken": meet_nobody,
        }[behaviour](run_dir)
    while True:
        signal.pause()


def fail(run_dir: Path) -> None:
    try:
        raise ArithmeticError("the culprit's own words")
    except ArithmeticError as error:
        report(run_dir, error)
        sys.exit(1)


def mistake(run_dir: Path) -> None:
    report(run_dir, ValueError("words.txt is\nempty"), "words.txt is\nempty")
    sys.exit(1)


def leave(run_dir: Path) -> None:
    print("last words in the log", flush=True)
    sys.exit(7)


def meet_nobody(run_dir: Path) -> None:
    (run_dir / "met").write_text(os.environ["MASTER_PORT"])
    sys.exit(PORT_TAKEN)


def die(run_dir: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lost_peer(run_dir: Path, process: int, culprit: int) -> None:
    """The culprit dies without a record; the process after it is quick to say that it lost a connection."""
    dying = run_dir / "dying"
    if process == culprit:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it dies of its own fault, however late it gets to it
        dying.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    while not dying.exists():
        time.sleep(0.01)
    report(run_dir, RuntimeError("Connection closed by peer [127.0.0.1]:1234"))
    sys.exit(1)


def report(run_dir: Path, error: Exception, user_error: str | None = None) -> None:
    process = int(os.environ["RANK"])
    record = {
        "rank": process,
        "time": time.time(),
        "traceback": "".join(traceback.format_exception(error)),
        "user_error": user_error,
    }
    (run_dir / "logs" / f"failure-{process}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
