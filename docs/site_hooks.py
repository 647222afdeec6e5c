"""Lists all decisions in the site's navigation, and makes links from a document to a Python file work on the site.

In the repository `[text](../examples/x.py)` leads to the file. The site holds only documents, so there the link leads
to a page that shows the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\(\.\./(\w+/\w+\.py)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add every file of docs/adr to the navigation, so that a new decision needs no entry in mkdocs.yml."""
    config.nav.append({"Decisions": [f"adr/{path.name}" for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the checkout that a document links to."""
    texts = [file.content_string for file in files.documentation_pages()]
    for name in sorted({name for text in texts for name in _LINK.findall(text)}):
        source = (ROOT / name).read_text(encoding="utf-8")
        page = f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n```python\n{source}```\n"
        files.append(File.generated(config, f"{name}.md", content=page))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead such links, which documents directly in docs/ hold, to the page."""
    return _LINK.sub(r"](\1.md)", markdown)
