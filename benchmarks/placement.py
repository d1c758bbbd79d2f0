"""What the planner's placement wins over ranks in the order in which the nodes come.

    python benchmarks/placement.py [--out docs/placement.md]

For each cluster and model the planner chooses a layout. Its predicted step is compared with that of the
same layout under every other order of the axes, with the nodes as given and as they hang in the network.
"Plain rank order" is tp, cp, dp, pp over the nodes as given. Prints a table; with --out it replaces the
one between the markers in that file.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

from orchestrate.cli.compose import Source
from orchestrate.cli.job import build
from orchestrate.config import Config
from orchestrate.plan.choice import Layout
from orchestrate.plan.layout import AXES, ParallelDims
from orchestrate.plan.placement.arrangement import Reaches
from orchestrate.plan.plan import Plan
from orchestrate.plan.search.search import search
from orchestrate.plan.time.step import CostModel
from orchestrate.topology.cluster import Cluster, build_cluster

PLAIN = ("tp", "cp", "dp", "pp")
BEGIN, END = "<!-- benchmarks/placement.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Case:
    """A cluster, as its nodes come, and a model."""

    fabric: str
    cluster: tuple[str, ...]
    model: str
    batch: int
    shuffle: int = 0
    """Places in the network of which the nodes take some in random order; 0: they come in order."""

    def config(self, *more: str) -> Config:
        overrides = [*self.cluster, f"model={self.model}", f"train.global_batch={self.batch}", *more]
        config = build(Source(), overrides)
        if not self.shuffle:
            return config
        places = random.Random(0).sample(range(self.shuffle), config.cluster.nodes)
        return replace(config, cluster=replace(config.cluster, positions=tuple(places)))


MODELS = (("llama3_8b", 512), ("llama3_70b", 512), ("gpt3_175b", 1024), ("llama3_405b", 512))
LEAVES = ("cluster=dgx_h100_oversubscribed",)
PAIRS = ("cluster=h100_nvl_pairs", "cluster.nodes=32", "cluster.switches=[{nodes: 8, oversubscription: 2}]")
RACKS = ("cluster=gb200_nvl72", "cluster.nodes=144", "cluster.switches=[{nodes: 72, oversubscription: 2}]")
PODS = ("cluster=meta_h100", "cluster.nodes=2048")
CASES = (
    *(Case("64 DGX H100, leaves of 16 at 4:1", LEAVES, *model) for model in MODELS),
    *(Case("the same, nodes shuffled", LEAVES, *model, shuffle=64) for model in MODELS),
    *(Case("the same, 64 of 128 nodes at random", LEAVES, *model, shuffle=128) for model in MODELS),
    Case("32 nodes of H100 pairs, leaves of 8 at 2:1", PAIRS, "llama3_70b", 512),
    Case("the same, nodes shuffled", PAIRS, "llama3_70b", 512, shuffle=32),
    Case("8 GB200 racks, leaves of 4 racks at 2:1", RACKS, "llama3_405b", 1152),
    Case("the same, nodes shuffled", RACKS, "llama3_405b", 1152, shuffle=144),
    Case("2,048 H100 nodes, pods of 384 at 7:1", PODS, "llama3_405b", 2048),
    Case("the same, nodes shuffled", PODS, "llama3_405b", 2048, shuffle=2048),
)


def step(config: Config, cluster: Cluster, layout: Layout, plan: Plan, reaches: Reaches) -> float:
    """Predicted seconds of ``layout`` with its ranks in order on the nodes of ``reaches``."""
    reach = reaches.of(layout.dims)
    cost = CostModel(cluster, config.model, config.precision.dtype, layout, reach)
    return cost.estimate(plan.stages).step


def layout_of(plan: Plan, dims: ParallelDims) -> Layout:
    return Layout(
        dims=dims,
        micro_batch=plan.micro_batch,
        global_batch=plan.global_batch,
        schedule=plan.schedule,
        sequence_parallel=plan.sequence_parallel,
        zero_stage=plan.zero_stage,
        zero_engine=plan.zero_engine,
        recompute=plan.recompute,
    )


def orders(dims: ParallelDims) -> Iterator[ParallelDims]:
    """``dims`` with every order of its axes that differs."""
    seen = set()
    for order in (PLAIN, *permutations(AXES)):
        key = tuple(axis for axis in order if dims.degree(axis) > 1)
        if key not in seen:
            seen.add(key)
            yield replace(dims, order=order)


def shown(dims: ParallelDims) -> str:
    return ", ".join(f"{axis} {dims.degree(axis)}" for axis in dims.order if dims.degree(axis) > 1)


def row(case: Case) -> list[str]:
    config = case.config()
    cluster = build_cluster(config.cluster)
    plan = search(config)
    as_given, as_hung = Reaches(cluster, cluster.nodes), Reaches(cluster, cluster.nodes_by_position)
    plain = step(config, cluster, layout_of(plan, replace(plan.dims, order=PLAIN)), plan, as_given)
    others = {}
    for nodes, reaches in (("as given", as_given), ("in place", as_hung)):
        for dims in orders(plan.dims):
            if reaches.along(dims, "tp").local:
                others[shown(dims), nodes] = step(config, cluster, layout_of(plan, dims), plan, reaches)
    ours = plan.time.step
    (worst_order, worst_nodes), worst = max(others.items(), key=lambda item: item[1])
    unaware = blind(case, config, cluster, as_given)
    return [
        case.fabric,
        case.model,
        shown(plan.dims),
        f"{ours:.3f}",
        f"{plain:.3f}",
        f"{plain / ours - 1:+.1%}",
        f"{worst / ours - 1:+.1%} ({worst_order}, {worst_nodes})",
        f"{unaware / ours - 1:+.1%}",
    ]


def blind(case: Case, config: Config, cluster: Cluster, as_given: Reaches) -> float:
    """Predicted seconds of what is planned as if the network blocked nothing, in plain rank order."""
    flat = replace(case, shuffle=0).config("cluster.switches=[]", "parallel.order=[tp,cp,dp,pp]")
    plan = search(flat)
    return step(config, cluster, layout_of(plan, plan.dims), plan, as_given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="the file whose table is replaced")
    out = parser.parse_args().out
    header = [
        "network",
        "model",
        "planned, innermost axis first",
        "planned, s",
        "plain rank order, s",
        "over planned",
        "worst other order",
        "planned blind, plain order",
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for case in CASES:
        lines.append("| " + " | ".join(row(case)) + " |")
        print(lines[-1], file=sys.stderr)
    table = "\n".join(lines)
    print(table)
    if out is not None:
        before, _, rest = out.read_text().partition(BEGIN)
        out.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
