"""Fill HTML templates; each page is one file that needs no network.

What it does: `rendered` fills a template of templates/. Every value is escaped, an unknown name raises, and
`layout.html.j2` forbids the page to load anything.
"""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def rendered(template: str, package: str = "fl.reports", **values: Any) -> str:
    """The filled template from `templates/` of `package`, or from fl.reports where `package` has none of that name."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("fl.reports")])
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["number"] = number
    pages.policies["json.dumps_kwargs"] = {"allow_nan": False}  # the default would also sort the keys
    return pages.get_template(template).render(values)


def number(value: float | None, form: str = ",") -> str:
    """A number for people, in a format specification; "-" for None."""
    return "-" if value is None else format(value, form)
