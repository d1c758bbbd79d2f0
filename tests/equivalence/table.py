"""Writes ``docs/equivalence.md``: ``python -m tests.equivalence.table``.

Trains every layout of `tests.equivalence.cases` and one process beside it, as the tests do.
"""

from __future__ import annotations

import datetime
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrate.config import VerifyConfig
from orchestrate.train.compare import GRADIENT, LOSS, NORM, WEIGHT, Report, compare
from orchestrate.train.verify import TOLERANCE
from tests.distributed.pool import Pool
from tests.equivalence.cases import GROUPS
from tests.equivalence.layouts import DROPOUT, GLOBAL_BATCH, GPT, LLAMA, STEPS, Layout, run

FILE = Path(__file__).parents[2] / "docs" / "equivalence.md"
SHOWN = (LOSS, GRADIENT, NORM, WEIGHT)


def main() -> int:
    """Write the table; 1 where a layout is beyond tolerance."""
    pool = Pool()

    @cache
    def reference(alone: Layout) -> dict[str, Any]:
        return pool.run(1, run, alone)[0]  # type: ignore[no-any-return]

    sections, failed = [], 0
    for title, layouts in GROUPS.items():
        rows = []
        for layout in layouts:
            record = pool.run(layout.world, run, layout)[0]
            report = compare(record, reference(layout.alone), TOLERANCE[layout.dtype])
            failed += not report.ok
            print("ok    " if report.ok else "BEYOND", layout, flush=True)
            rows.append(_row(layout, report))
        sections.append(f"## {title}\n\n" + _table(rows))
    pool.close()
    FILE.write_text(_introduction() + "\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _row(layout: Layout, report: Report) -> list[str]:
    worst = [report.worst(quantity) for quantity in SHOWN]
    figures = [f"{d.relative:.1e}" if d and d.relative else "0" for d in worst]
    gradient = report.worst(GRADIENT)
    where = f"`{gradient.name}`" if gradient and gradient.relative else ""
    verdict = "" if report.ok else "**beyond**"
    return [str(layout), str(layout.world), *figures, where, f"{TOLERANCE[layout.dtype]:.0e}", verdict]


def _table(rows: list[list[str]]) -> str:
    head = ["layout", "ranks", "loss", "gradient", "norm", "weights", "worst gradient", "tolerance", ""]
    rule = ["---", "--:", "--:", "--:", "--:", "--:", "---", "--:", "---"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _introduction() -> str:
    return f"""# The numbers equal one device's

Written by `python -m tests.equivalence.table` on {datetime.date.today().isoformat()}
(CPU, gloo, torch {version("torch")}, deepspeed {version("deepspeed")}). The same comparisons are
tests (`tests/equivalence/`), and `orchestrate verify <overrides>` makes them for any model and layout.

Each layout trains {STEPS} optimizer steps of {GLOBAL_BATCH} sequences, and one process (no parallelism,
ZeRO 0, no recompute) trains the same steps from the same config. A figure is the largest relative
difference over the steps and over all parameters, where the relative difference of a tensor is
`max|a - b| / max|b|`, b being the one process's. A tensor that is zero but for rounding is measured
against the largest of its kind: its largest element is below a tenth of the tolerance times that. (The
bias of a GPT-2 key is one: it shifts all scores of a query alike, so its true gradient is zero.)

- *loss*: of each step; *gradient*: of each parameter at each step, before clipping; *norm*: the global
  gradient norm of each step; *weights*: every parameter after the last step.
- In every row the initial weights are the same bits as the one process's, and ranks that hold the same
  slice of a parameter hold the same bits: gradients at each step, weights at the end. Tests assert both.
- `gpt` has LayerNorm, GELU, learned positions, biases and tied embeddings; `llama` RMSNorm, SwiGLU,
  rotary positions, {LLAMA.kv_heads} key-value heads for {LLAMA.heads} heads, no biases, embeddings untied.
  Both have {GPT.layers} layers of {GPT.hidden} and {GPT.vocab} words, which no degree divides.
  `+dropout` drops {DROPOUT["dropout"]:.0%} of embeddings, block outputs and attention weights, by the
  same mask in every layout.
- Layout names: degrees, `sp` sequence parallelism, the pipeline schedule (`x2`: virtual stages per
  rank), `stages1-3` layers of uneven stages, ZeRO stage and engine, recomputation (`full1`: the first
  layer of each stage alone), `microN` sequences per micro-batch (1 where not said), `order-…` mesh
  axes, fastest first.
- Adam's epsilon is {VerifyConfig().adam_eps:g} in both runs: Adam divides a gradient by its own size, so
  with a small epsilon the rounding errors of near-zero gradients become updates of full size.
- 16 bit: the one process is 16 bit too; both round every activation to 8 (bf16) or 11 (fp16) bits, at
  different places. Gradients add up, and weights are updated, in fp32. Tests compare with fp32 too."""


if __name__ == "__main__":
    sys.exit(main())
