"""Three foreign files: a draft, then train, score, evaluate and card without an edit, as good as a hand-made schema."""

from __future__ import annotations

EFFORT = ("--no-dp", "--no-baselines", "--rounds", "3", "--local-epochs", "2")
UNDATED = ("per day", "a day", "test days", "the first alert")
