"""Values of a ``config.json``, which anybody may have written, read with their types checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from orchestrate.errors import ExchangeError


class Keys:
    """Values of ``config.json``, read with their types checked. A null counts as a missing key."""

    def __init__(self, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        self.values, self._origin, self._prefix = values, origin, prefix

    def section(self, key: str) -> Keys | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._refuse(key, "must be a mapping")
        return Keys(value, self._origin, f"{key}.")

    def equal(self, key: str, default: Any, other: str, wanted: Any) -> None:
        """Complain where the value is not ``wanted``, which ``other`` has."""
        value = self._get(key, default)
        if not _same(value, wanted):
            self._refuse(
                key, f"is {shown(value)}, but {other} is {shown(wanted)}: the model here has one for both"
            )

    def require(self, key: str, accepted: tuple[Any, ...]) -> None:
        """Complain where there is a value and it is none of ``accepted``."""
        value = self.values.get(key)
        if value is not None and not any(_same(value, one) for one in accepted):
            choices = " or ".join(dict.fromkeys(shown(one) for one in accepted))
            self._refuse(key, f"the model here has only {choices}")

    def count(self, key: str, default: int) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**48:
            self._refuse(key, "must be a whole number of at least 1")
        return int(value)

    def positive(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if not _is_number(value) or value <= 0:
            self._refuse(key, "must be a number above 0")
        return float(value)

    def share(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if not _is_number(value) or not 0 <= value < 1:
            self._refuse(key, "must be at least 0 and below 1")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            self._refuse(key, "must be true or false")
        return bool(value)

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def _refuse(self, key: str, rule: str) -> None:
        value = json.dumps(self.values.get(key))
        value = value if len(value) <= 60 else value[:57] + "..."
        raise ExchangeError(f"{self._origin}: {self._prefix}{key}={value}: {rule}")


def _is_number(value: Any) -> bool:
    # Not math.isfinite: a JSON integer may be larger than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _same(a: Any, b: Any) -> bool:
    # True == 1 in Python, not in JSON.
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def shown(value: Any) -> str:
    """``value`` as people type it."""
    return str(value.value) if isinstance(value, Enum) else json.dumps(value)
