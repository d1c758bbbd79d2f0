"""The toolkits whose runs the planner can predict: this one, and those that published measurements name."""

from __future__ import annotations

from enum import Enum


class Toolkit(str, Enum):
    orchestrate = "orchestrate"
    megatron_lm = "megatron-lm"
    megatron_deepspeed = "megatron-deepspeed"
    megatron_core = "megatron-core"
    nemo = "nemo"
    megascale = "megascale"
    nanotron = "nanotron"
    mpt_fsdp = "mpt pytorch fsdp"


def toolkit_of(software: str) -> Toolkit:
    """The toolkit that ``software`` names, as in ``nemo v25.02.02``: the longest name that it begins
    with. What begins with none of them is taken for Megatron-Core, whose design most others follow."""
    known = [toolkit for toolkit in Toolkit if software.lower().startswith(toolkit.value)]
    return max(known, key=lambda toolkit: len(toolkit.value), default=Toolkit.megatron_core)
