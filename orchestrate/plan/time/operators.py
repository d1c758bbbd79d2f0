"""Seconds of one device's operators: matrix products by shape, everything else by the bytes it moves."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from orchestrate.config import DeviceConfig, DeviceKind, DType

TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.6))
"""Rows and columns of the output that one multiprocessor makes at a time, and the share of its speed that
it reaches with them: smaller tiles read each operand more often (NVIDIA, "Matrix Multiplication
Background User's Guide", section on tile quantisation)."""
RAMP = 100
"""A tile takes as long as this many steps along the inner dimension to fill and to empty the
multiprocessor's pipeline. Fitted to published training runs on A100 and H100."""
KERNEL_S = 5e-6
"""What a kernel takes on a GPU however little it does. Fitted to the same runs."""
TOGETHER = 5
"""Exponent of the norm that joins the device's time and the host's: the larger one counts, and a little
more where they are near one another."""


@dataclass(frozen=True)
class Processor:
    """A device as its operators see it, in one precision."""

    flops: float
    """Per second that large matrix products reach."""
    bandwidth: float
    """Bytes per second that operators between them reach."""
    multiprocessors: int
    kernel: float
    """Seconds that an operator takes however little it does."""
    launch: float
    """Seconds of the host for each operator."""
    overlaps: bool
    """Whether the host starts the next operator while the device is still at work on the last."""
    element: int
    """Bytes."""

    def matmul(self, rows: int, columns: int, inner: int, batch: int = 1) -> float:
        """Seconds of ``batch`` products of ``rows`` x ``inner`` with ``inner`` x ``columns`` matrices.

        A roofline whose flat part has steps: the output's tiles are dealt to the multiprocessors in
        waves, and a wave that is not full takes as long as one that is.
        """
        moved = batch * (rows * inner + inner * columns + rows * columns) * self.element
        if self.multiprocessors == 1:
            work = 2.0 * batch * rows * columns * inner / self.flops
        else:
            work = min(self._tiled(rows, columns, inner, batch, *tile) for tile in TILES)
        return max(work, moved / self.bandwidth) + self.kernel

    def _tiled(
        self, rows: int, columns: int, inner: int, batch: int, high: int, wide: int, speed: float
    ) -> float:
        tiles = ceil(rows / high) * ceil(columns / wide) * batch
        waves = ceil(tiles / self.multiprocessors)
        return waves * 2.0 * high * wide * (inner + RAMP) * self.multiprocessors / (self.flops * speed)

    def stream(self, moved: float) -> float:
        """Seconds of an operator that reads and writes ``moved`` bytes in all."""
        return moved / self.bandwidth + self.kernel

    def elapsed(self, work: Work) -> float:
        """Seconds from the first of the operators of ``work`` to the end of the last."""
        host = work.operators * self.launch
        if not self.overlaps:
            return work.seconds + host
        return float((work.seconds**TOGETHER + host**TOGETHER) ** (1 / TOGETHER))


@dataclass(frozen=True)
class Work:
    """Operators in a row: the device's seconds, and how many the host must start."""

    seconds: float = 0.0
    operators: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.seconds + other.seconds, self.operators + other.operators)


def processor(device: DeviceConfig, dtype: DType, launch_us: float | None = None) -> Processor:
    """``device`` computing in ``dtype``; ``launch_us`` replaces the host's time for each operator."""
    cuda = device.kind is DeviceKind.cuda
    return Processor(
        flops=device.peak_tflops[dtype] * 1e12 * device.matmul_efficiency,
        bandwidth=device.memory_bandwidth_gbps * 1e9 * device.memory_efficiency,
        multiprocessors=device.multiprocessors,
        kernel=KERNEL_S if cuda else 0.0,
        launch=(device.launch_us if launch_us is None else launch_us) * 1e-6,
        overlaps=cuda,
        element=dtype.bytes,
    )
