"""Makes a notebook of a page whose commands are in fences of the language bash, and runs it.

    python docs/notebook.py docs/walkthrough.md build/walkthrough.ipynb

Prose becomes cells of text, and each fence a cell that stops at the first command that fails. The commands run in an
empty folder, which is removed. Of what a command prints, the notebook keeps the first and the last lines.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, v4

ROOT = Path(__file__).resolve().parents[1]
KEPT = 12  # first and last lines of an output
PLAIN = """\
# Jupyter asks programs for colours and progress bars, which fill a notebook.
import os

for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)
os.environ["NO_COLOR"] = "1\""""
TIMEOUT = 1800  # seconds for one cell, on a busy machine


def notebook_of(text: str) -> NotebookNode:
    """The notebook of a page, not run. Links to other pages lead to docs/ from a folder beside it."""
    linked = re.sub(r"\]\((?![a-z]+:|\.\./|#)", "](../docs/", text)
    cells = [v4.new_code_cell(PLAIN)]
    for prose, commands in _parts(linked):
        if prose.strip():
            cells.append(v4.new_markdown_cell(prose.strip()))
        if commands is not None:
            cells.append(v4.new_code_cell(f"%%bash -e\n{commands.rstrip()}"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # equal pages give equal notebooks
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _parts(text: str) -> Iterator[tuple[str, str | None]]:
    """(prose, commands of the fence after it) of a page; None after the last fence."""
    *whole, last = re.split(r"^```bash\n(.*?)^```\n", text, flags=re.DOTALL | re.MULTILINE)
    yield from zip(whole[::2], whole[1::2], strict=True)
    yield last, None


def run(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run every cell in `folder`, in place. Raises `nbclient.exceptions.CellExecutionError` for one that fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "IPYTHONDIR": str(folder / ".ipython")}
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _few(cell.outputs)
    return notebook


def _few(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """One output for everything printed on a stream, shortened, and all others as they are."""
    printed: dict[str, str] = {}
    for output in outputs:
        if output.output_type == "stream":
            printed[output.name] = printed.get(output.name, "") + output.text
    streams = [v4.new_output("stream", name=name, text=shortened(text)) for name, text in printed.items()]
    return [*streams, *(output for output in outputs if output.output_type != "stream")]


def shortened(text: str) -> str:
    """The text with the lines in the middle left out, where there are many."""
    lines = text.splitlines()
    left = len(lines) - 2 * KEPT
    if left <= 1:
        return text
    return "\n".join([*lines[:KEPT], f"[{left} lines]", *lines[-KEPT:]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path, help="a document with commands")
    parser.add_argument("notebook", type=Path, help="the file to write")
    given = parser.parse_args()
    notebook = notebook_of(given.page.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="secagg-notebook-") as folder:
        run(notebook, Path(folder))
    given.notebook.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, given.notebook)


if __name__ == "__main__":
    main()
