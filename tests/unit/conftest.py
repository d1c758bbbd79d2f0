"""Settings of the unit tests."""

from __future__ import annotations

from hypothesis import settings

# No test times anything: a busy machine must not fail one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
