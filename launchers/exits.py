"""Exit codes by which ranks tell a launcher what to do next; neither is a failure."""

REQUEUE = 75
"""Asked to stop, the run saved a checkpoint: start it again (EX_TEMPFAIL of sysexits.h)."""

GO_BACK = 76
"""The run wants to start again at its last checkpoint, at once: a step led astray."""

AGREED = frozenset({REQUEUE, GO_BACK})
