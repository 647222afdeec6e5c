"""Pages from templates: what comes from outside is escaped, a misspelt name raises, and no file goes without Jinja."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from fl.reports.html import number, rendered

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = """{% extends "layout.html.j2" %}{% from "parts.html.j2" import figure, row, table %}
{% block content %}{% call table([text]) %}{{ row([text], text) }}{% endcall %}
{% call figure({"data": [{"x": [value], "name": text}], "layout": {"b": 1, "a": 2}}, "p") %}{{ text }}{% endcall %}
{% endblock %}"""
HOSTILE = "</script><img src=x onerror='alert(1)' class=\"y\">"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a template of its own, which the layout of fl.reports goes around."""
    (tmp_path / "pages" / "templates").mkdir(parents=True)
    (tmp_path / "pages" / "__init__.py").touch()
    (tmp_path / "pages" / "templates" / "own.html.j2").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(tmp_path)
    return "pages"


def test_text_from_outside_ends_no_tag_and_no_script(package: str) -> None:
    page = rendered("own.html.j2", package, title=HOSTILE, text=HOSTILE, value=0.5)
    assert "<img" not in page and page.count("</script>") == 1
    assert page.count("&lt;/script&gt;&lt;img src=x onerror=&#39;alert(1)&#39; class=&#34;y&#34;&gt;") == 6
    assert '"x": [0.5]' in page and '{"b": 1, "a": 2}' in page


def test_a_plot_of_what_is_no_number_is_refused(package: str) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        rendered("own.html.j2", package, title="", text="", value=float("nan"))


def test_a_name_that_nobody_gave_raises(package: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match="text"):
        rendered("own.html.j2", package, title="", value=0.5)


def test_numbers_for_people() -> None:
    assert [number(1234567), number(0.25, ".1f"), number(None, ".3f")] == ["1,234,567", "0.2", "-"]


def test_no_page_is_put_together_from_strings() -> None:
    """Tags stand in templates. Plotly's labels and hover texts, which are no HTML of the page, are in two files."""
    plotted = {"fl/reports/examination/plots.py", "fl/reports/ablation_page.py"}
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("fl", "demos", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if any(tag in path.read_text(encoding="utf-8") for tag in ("</", "<br", "<!doctype"))
    }
    assert found <= plotted
