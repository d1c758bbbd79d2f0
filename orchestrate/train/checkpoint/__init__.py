"""Checkpoints: the state of a training run on disk, keyed by parameter name, for any layout to load.

A run keeps them in ``<run folder>/checkpoints/step-00000050/``, see `docs/checkpoints.md`:

- ``*.distcp`` and ``.metadata`` are what ``torch.distributed.checkpoint`` writes: whole tensors in chunks,
  ``model.<name>`` (the weights that are updated, in at least fp32), ``optimizer.<name>.exp_avg`` and
  ``optimizer.<name>.exp_avg_sq``;
- ``state.json`` is the rest (`orchestrate.train.checkpoint.format.State`);
- ``checksums.json`` has the size and digest of every file.

This package imports no torch by itself; the modules below it do where they must:

====================  ===================================================================================
module                what others call
====================  ===================================================================================
``format``            no torch: ``found``, ``latest``, ``problems``, ``read_state``
``agreement``         no torch: ``check_start(config, run_dir)``: may the run go on from what is there
``keep``              no torch: which checkpoints are kept
``write``             ``save(...)``: all ranks together write one
``commit``            no torch: ``commit(...)``: make a written folder count from one moment to the next
``read``              ``load(path, fragments)``, ``names(path)``, ``read_tensor(path, name, offsets, sizes)``
``resume``            ``resume(...)``: find the newest sound one, load it and say where training stands
``asynchronous``      ``Saver``: save while training goes on
====================  ===================================================================================
"""

from orchestrate.train.checkpoint.format import Found, State, found, latest, problems, read_state

__all__ = ["Found", "State", "found", "latest", "problems", "read_state"]
