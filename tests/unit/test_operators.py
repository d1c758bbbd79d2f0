"""Operators on a device: the roofline's two sides, its steps, and the host beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.config import DType
from orchestrate.plan.time.operators import Processor, Work, processor
from tests.unit.plan_cases import make_config

A100 = processor(make_config("dgx_a100").cluster.device, DType.bf16)
CPU = processor(make_config("two_node_cpu").cluster.device, DType.fp32)

sizes = st.integers(1, 20_000)


@given(rows=sizes, columns=sizes, inner=sizes)
def test_no_product_beats_the_roofline(rows: int, columns: int, inner: int) -> None:
    for device in (A100, CPU):
        seconds = device.matmul(rows, columns, inner)
        moved = (rows * inner + inner * columns + rows * columns) * device.element
        assert seconds >= 2 * rows * columns * inner / device.flops * (1 - 1e-12)
        assert seconds >= moved / device.bandwidth


def test_large_products_reach_the_devices_efficiency() -> None:
    seconds = A100.matmul(8192, 8192, 8192)
    assert 2 * 8192**3 / seconds == pytest.approx(A100.flops, rel=0.1)


def test_a_wave_that_is_hardly_filled_takes_as_long_as_a_full_one() -> None:
    # 108 tiles of 256 x 128 fill an A100 once; one more row of tiles starts a second wave.
    full = A100.matmul(256 * 12, 128 * 9, 8192)
    more = A100.matmul(256 * 13, 128 * 9, 8192)
    assert more > 1.3 * full


@given(rows=sizes, columns=sizes, inner=sizes, more=st.integers(1, 4096))
def test_a_deeper_product_never_takes_less(rows: int, columns: int, inner: int, more: int) -> None:
    assert A100.matmul(rows, columns, inner + more) >= A100.matmul(rows, columns, inner)


@given(seconds=st.floats(1e-7, 1.0), operators=st.integers(0, 10_000))
def test_a_gpu_waits_for_the_slower_of_itself_and_the_host(seconds: float, operators: int) -> None:
    host = operators * A100.launch
    elapsed = A100.elapsed(Work(seconds, operators))
    # The norm adds a little where both are alike: at most the eighth root of two.
    assert max(seconds, host) * (1 - 1e-9) <= elapsed <= max(seconds, host) * 2 ** (1 / 8) * (1 + 1e-9)


@given(seconds=st.floats(1e-7, 1.0), operators=st.integers(0, 10_000))
def test_on_a_cpu_starting_an_operator_comes_on_top(seconds: float, operators: int) -> None:
    assert CPU.elapsed(Work(seconds, operators)) == pytest.approx(seconds + operators * CPU.launch)


def test_twice_the_device_takes_half_the_time() -> None:
    fast = replace(A100, flops=2 * A100.flops, bandwidth=2 * A100.bandwidth, kernel=A100.kernel / 2)
    assert isinstance(fast, Processor)
    assert fast.matmul(4096, 4096, 4096) == pytest.approx(A100.matmul(4096, 4096, 4096) / 2)
    assert fast.stream(1e9) == pytest.approx(A100.stream(1e9) / 2)
