"""The keys here for the options of Megatron-LM and DeepSpeed, for those who have them in their fingers."""

from __future__ import annotations

KEYS = {
    "tensor-model-parallel-size": "parallel.tp",
    "pipeline-model-parallel-size": "parallel.pp",
    "context-parallel-size": "parallel.cp",
    "num-virtual-stages-per-pipeline-rank": "parallel.vpp",
    "num-layers-per-virtual-pipeline-stage": "parallel.vpp",
    "sequence-parallel": "parallel.sequence_parallel",
    "micro-batch-size": "parallel.micro_batch",
    "global-batch-size": "train.global_batch",
    "train-iters": "train.steps",
    "eval-interval": "train.eval_every",
    "log-interval": "train.log_every",
    "clip-grad": "train.clip",
    "num-layers": "model.layers",
    "hidden-size": "model.hidden",
    "ffn-hidden-size": "model.ffn_hidden",
    "num-attention-heads": "model.heads",
    "num-query-groups": "model.kv_heads",
    "seq-length": "model.seq",
    "max-position-embeddings": "model.seq",
    "vocab-size": "model.vocab",
    "untie-embeddings-and-output-weights": "model.tied_embeddings",
    "lr-warmup-iters": "optim.warmup_steps",
    "min-lr": "optim.min_lr_ratio",
    "adam-beta1": "optim.betas",
    "adam-beta2": "optim.betas",
    "use-distributed-optimizer": "zero.stage",
    "zero-stage": "zero.stage",
    "recompute-granularity": "recompute",
    "recompute-activations": "recompute",
    "recompute-num-layers": "recompute.layers",
    "bf16": "precision",
    "fp16": "precision",
    "data-path": "data.source.paths",
    "save": "run.dir",
    "load": "checkpoint.load",
    "save-interval": "checkpoint.every",
    "wandb-project": "tracking.project",
    "nnodes": "cluster.nodes",
    "nproc-per-node": "cluster.gpus_per_node",
    "num-nodes": "cluster.nodes",
    "num-gpus": "cluster.gpus_per_node",
}
"""By the option without its dashes before; the key or the group."""


def key_for(flag: str) -> str | None:
    """What ``flag``, as in ``--num-layers`` or ``--num_layers=8``, is called here, or a key of that very
    name, as of ``--nodes``; None where there is neither."""
    from orchestrate.cli.schema import all_keys

    name = flag.lstrip("-").partition("=")[0].replace("_", "-")
    same = (key.path for key in all_keys() if key.path.rpartition(".")[2] == name.replace("-", "_"))
    return KEYS.get(name) or next(same, None)
