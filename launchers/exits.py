"""Exit codes by which ranks tell a launcher what to do next."""

REQUEUE = 75
"""Asked to stop, the run saved a checkpoint: start it again (EX_TEMPFAIL of sysexits.h)."""

GO_BACK = 76
"""The run wants to start again at its last checkpoint, at once: a step led astray."""

PORT_TAKEN = 77
"""Somebody else listens where the ranks were to meet: start again, elsewhere."""

AGREED = frozenset({REQUEUE, GO_BACK})
"""What all ranks leave with together; no failure."""
