"""GPUs whose datasheets are at hand, by the exact name that the driver gives them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Datasheet:
    device: str
    """File in conf/cluster/device/ that holds its peaks."""
    links: int
    """NVLinks of one GPU."""
    link_gbps: float
    """GB/s in one direction over one NVLink."""
    rack: bool = False
    """Whether NVLink may reach over the nodes of a rack."""


DATASHEETS = {
    "Tesla V100-SXM2-16GB": Datasheet("v100_16gb", 6, 25),
    "Tesla V100-SXM2-32GB": Datasheet("v100_32gb", 6, 25),
    "NVIDIA A100-SXM4-40GB": Datasheet("a100_40gb", 12, 25),
    "NVIDIA A100-SXM4-80GB": Datasheet("a100_80gb", 12, 25),
    "NVIDIA H100 80GB HBM3": Datasheet("h100_80gb", 18, 25),
    "NVIDIA H200": Datasheet("h200_141gb", 18, 25),
    "NVIDIA B200": Datasheet("b200_180gb", 18, 50),
    "NVIDIA GB200": Datasheet("gb200_186gb", 18, 50, rack=True),
    "NVIDIA L40S": Datasheet("l40s_48gb", 0, 0),
}
"""NVLinks from NVIDIA's datasheets: GPUs of 300 GB/s over 6 links (V100), 600 over 12 (A100), 900 over 18
(H100, H200) and 1,800 over 18 (B200, GB200), both directions together."""
