"""HTML pages from templates, each one file that needs no network.

What it does: `rendered` fills a template. Every value is escaped, a name that the template misspells raises, and
`layout.html.j2` forbids the page to fetch anything.
"""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def rendered(template: str, package: str = "fl.reports", **values: Any) -> str:
    """The page of `templates/` of `package`, or of fl.reports where that has none of the name."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("fl.reports")])
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["number"] = number
    pages.policies["json.dumps_kwargs"] = {"allow_nan": False}  # and not the keys in another order
    return pages.get_template(template).render(values)


def number(value: float | None, form: str = ",") -> str:
    """A number for people, in a format specification; "-" for None."""
    return "-" if value is None else format(value, form)
