"""Whether a run that has failed is worth another start, and how long it waits for that."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.topology.cluster import Device

LONGEST_PAUSE_S = 300.0
SAME_STEP = 3
"""Failures in a row at one step after which the step itself is to blame."""
STRIKES = 2
"""Failures in a row that began on one device, and may be its fault, after which it counts as lost."""


@dataclass
class Luck:
    """What the failures of a run so far say about the next restart."""

    furthest: int = -1
    """The last step that any start has finished."""
    in_a_row: int = 0
    """Restarts since then."""
    step: int = -1
    same_step: int = 0
    """Failures in a row at `step`."""
    suspect: Device | None = None
    strikes: int = 0
    """Failures in a row that `suspect` may be to blame for."""

    def failed(self, step: int, finished: int, suspect: Device | None) -> None:
        if finished > self.furthest:
            self.furthest, self.in_a_row = finished, 0
        self.in_a_row += 1
        self.same_step = self.same_step + 1 if step == self.step else 1
        self.step = step
        self.strikes = self.strikes + 1 if suspect is not None and suspect == self.suspect else 1
        self.suspect = suspect

    @property
    def broken(self) -> set[Device]:
        """What counts as lost, for it is to blame too often."""
        return {self.suspect} if self.suspect is not None and self.strikes >= STRIKES else set()

    def hopeless(self, tries: int) -> str | None:
        """Why another start is not worth it.

        Args:
            tries: restarts in a row without getting further.
        """
        if self.same_step >= SAME_STEP:
            where = f"step {self.step}" if self.step else "the start, before the first step,"
            return f"{where} failed {self.same_step} times in a row"
        if self.in_a_row > tries:
            return f"faults.tries={tries} restarts did not get past step {self.furthest}"
        return None

    def pause_s(self, first_s: float) -> float:
        """Seconds until the next restart; the second in a row waits ``first_s``, and each after it twice as
        long."""
        if self.in_a_row < 2:
            return 0.0
        return min(first_s * 2.0 ** min(self.in_a_row - 2, 16), LONGEST_PAUSE_S)
