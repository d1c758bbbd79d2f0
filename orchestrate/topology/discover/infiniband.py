"""Network adapters from sysfs: InfiniBand, RoCE, EFA, whatever registers under class/infiniband."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrate.errors import ConfigError
from orchestrate.topology.discover.facts import Adapter


def read_adapters(sys: Path) -> tuple[Adapter, ...]:
    """The adapters below ``sys``/class/infiniband, by name; none where that folder is missing.

    Raises:
        ConfigError: a port's rate that is not written as the kernel does (``200 Gb/sec (4X HDR)``).
    """
    folder = sys / "class" / "infiniband"
    if not folder.is_dir():
        return ()
    return tuple(_adapter(device) for device in sorted(folder.iterdir(), key=_by_number))


def _by_number(device: Path) -> tuple[str | int, ...]:
    """mlx5_2 before mlx5_10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", device.name))


def _adapter(device: Path) -> Adapter:
    ports = sorted((device / "ports").glob("*"))
    active = [port for port in ports if "ACTIVE" in (_text(port / "state") or "")]
    rates = [_rate(port) for port in active]
    layers = [layer for port in active or ports if (layer := _text(port / "link_layer"))]
    return Adapter(
        name=device.name,
        gbits=None if None in rates else sum(rate for rate in rates if rate is not None),
        up=bool(active),
        layer=layers[0] if layers else None,
    )


def _rate(port: Path) -> float | None:
    text = _text(port / "rate")
    if text is None:
        return None
    match = re.match(r"(\d+(?:\.\d+)?) Gb/sec", text)
    if match is None:
        raise ConfigError(f"{port / 'rate'}: {text!r} is no rate such as '200 Gb/sec (4X HDR)'")
    return float(match[1])


def _text(file: Path) -> str | None:
    """What stands in ``file``; None where it cannot be read, as a port without a driver's answer."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
