"""Configs and files that the data tests share."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orchestrate.config import (
    BlendEntry,
    ClusterConfig,
    Config,
    DataConfig,
    DeviceConfig,
    DeviceKind,
    DType,
    LinkConfig,
    ModelConfig,
    SourceConfig,
    TrainConfig,
)

CODES = {"u1": 1, "i1": 2, "i2": 3, "i4": 4, "i8": 5, "f8": 6, "f4": 7, "u2": 8}


def config(
    source: SourceConfig,
    cache: Path,
    *,
    seq: int = 16,
    vocab: int = 257,
    seed: int = 0,
    validation_fraction: float = 0.1,
) -> Config:
    """A config whose data section matters and whose other sections are only there."""
    link = LinkConfig(bandwidth_gbps=1, latency_us=1)
    device = DeviceConfig("cpu", DeviceKind.cpu, 1, 1, {DType.fp32: 1})
    return Config(
        cluster=ClusterConfig("test", 1, 1, device, link, link),
        model=ModelConfig("test", layers=1, hidden=8, heads=1, ffn_hidden=8, vocab=vocab, seq=seq),
        data=DataConfig(source, str(cache), validation_fraction),
        train=TrainConfig(seed=seed),
    )


def text(*paths: Path | str, **options: object) -> SourceConfig:
    return SourceConfig("text", tuple(map(str, paths)), **options)  # type: ignore[arg-type]


def blend(*entries: tuple[SourceConfig, float]) -> SourceConfig:
    return SourceConfig("blend", blend=tuple(BlendEntry(source, weight) for source, weight in entries))


def write_megatron(
    prefix: Path,
    documents: Sequence[Sequence[int]],
    dtype: str = "u2",
    *,
    magic: bytes = b"MMIDIDX\x00\x00",
    version: int = 1,
    modes: bool = False,
) -> None:
    """A ``.bin``/``.idx`` pair, one sequence per document, written from the format's description alone."""
    arrays = [np.array(document, dtype="<" + dtype) for document in documents]
    width = np.dtype(dtype).itemsize
    starts = [sum(len(a) for a in arrays[:i]) * width for i in range(len(arrays))]
    Path(f"{prefix}.bin").write_bytes(b"".join(a.tobytes() for a in arrays))
    index = (
        magic + struct.pack("<QB", version, CODES[dtype]) + struct.pack("<QQ", len(arrays), len(arrays) + 1)
    )
    index += np.array([len(a) for a in arrays], dtype="<i4").tobytes()
    index += np.array(starts, dtype="<i8").tobytes()
    index += np.arange(len(arrays) + 1, dtype="<i8").tobytes()
    Path(f"{prefix}.idx").write_bytes(index + bytes(len(arrays) if modes else 0))
