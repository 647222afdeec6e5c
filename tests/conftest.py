"""Fixtures that every part of the suite shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The Fraud Detection Handbook files, which live beside the checkout and are never copied into it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "fdh"
    if not folder.is_dir():
        pytest.skip(f"the Fraud Detection Handbook data is not at {folder}")
    return folder
