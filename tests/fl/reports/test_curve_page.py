"""The page of `demos curve`: one file that needs no network and shows every figure it was given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fl.reports.curve_page import against_epsilon, write_page

LEVELS = {"none": 0.8, "8": 0.75, "3": 0.6}


def found(evidence: bool = True) -> dict[str, Any]:
    rows = {
        level: {
            "average_precision": mean,
            "per_seed": [mean - 0.0125, mean + 0.0125],
            "share_of_no_privacy": mean / 0.8,
            "own_evidence": mean + 0.05 if evidence else None,
            "attack_accuracy": None if level == "none" else 0.9,
            "highest_posterior": None if level == "none" else 0.02,
        }
        for level, mean in LEVELS.items()
    }
    return {"folder": "runs/curve", "seeds": [0, 1], "curve": rows, "alone": {"alone": 0.4, "alone_filter": 0.5}}


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    write_page(found(), tmp_path / "curve.html")
    page = (tmp_path / "curve.html").read_text(encoding="utf-8")
    assert page.startswith("<!") and page.rstrip().endswith("</html>")
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', page)
    for figure in ("0.600", "0.750", "0.800", "no privacy"):
        assert figure in page


@pytest.mark.parametrize("evidence", [True, False])
def test_every_run_is_a_dot_and_every_mean_on_a_line(evidence: bool) -> None:
    dots, *lines = against_epsilon(found(evidence))["data"]
    assert dots["x"] == ["3", "3", "8", "8", "no privacy", "no privacy"]  # by epsilon
    assert [line["name"] for line in lines] == [
        "released parts only",
        *(["own evidence when scoring"] if evidence else []),
        "each bank alone, network, no privacy",
        "each bank alone, filter, no privacy",
    ]
    assert lines[0]["y"] == sorted(LEVELS.values())
