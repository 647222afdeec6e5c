"""Fixtures and settings that every part of the suite shares.

Property tests draw the same examples in every run and know no time limit, so that a test that passed passes again, on a
busy machine too. `pytest --hypothesis-profile search` draws new examples: that is how to look for counterexamples.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The Fraud Detection Handbook files, which live beside the checkout and are never copied into it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "fdh"
    if not folder.is_dir():
        pytest.skip(f"the Fraud Detection Handbook data is not at {folder}")
    return folder
