"""Read prompts: files with a version, named by their hash.

A prompt file begins with `version: N` and a blank line; the rest is the instruction, word for word. Prompts
hold no data. The data of a request are sent separately, as JSON in the user's turn, so that text in a
transaction does not stand where instructions stand.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from fl.assist.errors import PromptError

FOLDER = Path(__file__).parent / "prompts"
_HEADER = re.compile(r"version: (\d+)\n\n(?=\S)")


@dataclass(frozen=True)
class Prompt:
    """An instruction. `sha256`: hash of the whole file, version line included."""

    name: str
    version: int
    text: str = field(repr=False)
    sha256: str

    @property
    def label(self) -> str:
        """How a result names the prompt it came from."""
        return f"{self.name} v{self.version} {self.sha256[:12]}"


def load_prompt(name: str, folder: Path = FOLDER) -> Prompt:
    """The prompt in `folder/name.md`. Raises `PromptError` when it is missing or does not begin with its version."""
    path = folder / f"{name}.md"
    try:
        raw = path.read_bytes()
        content = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise PromptError(f"{path}: cannot read this prompt: {fault}") from fault
    header = _HEADER.match(content)
    if header is None:
        raise PromptError(f"{path}: expected 'version: N', a blank line and the instruction")
    return Prompt(name, int(header[1]), content[header.end() :].strip(), hashlib.sha256(raw).hexdigest())
