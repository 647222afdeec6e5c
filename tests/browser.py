"""A page in headless Chromium: its width beside that of its window, what its console says, and a picture of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOLD = re.compile(r"<title>width (\d+) of (\d+)</title>")
# A window of Chromium is at least 500 pixels wide, a frame in it is not.
FRAME = """<!doctype html><title>waiting</title>
<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<script>addEventListener("message", (told) => {{ document.title = "width " + told.data; }});</script>
<iframe src="{page}" width="{width}" height="{height}"></iframe>
"""
# The page's own policy allows inline scripts. Plots are drawn before this runs, since it is the last script.
TELL = """<script>addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement;
  parent.postMessage(root.scrollWidth + " of " + root.clientWidth, "*");
}, 500));</script></body>"""


def chromium() -> str:
    """The browser; without one the test is skipped."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here")
    return found


def opened(page: Path, width: int, folder: Path, *arguments: str, height: int = 2000) -> tuple[str, list[str]]:
    """(what Chromium printed on stdout, the lines of its console) with `page` in a frame `width` pixels wide.

    `folder`: an empty one. `arguments`: further ones of Chromium.
    """
    inside, frame = folder / "inside.html", folder / "frame.html"
    inside.write_text(page.read_text(encoding="utf-8").replace("</body>", TELL), encoding="utf-8")
    frame.write_text(FRAME.format(page=inside.as_uri(), width=width, height=height), encoding="utf-8")
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},{height}"]
    command += ["--virtual-time-budget=20000", *arguments, frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def widths(page: Path, width: int, folder: Path) -> tuple[int, int, list[str]]:
    """(the width that the page needs, the one that it has, the lines of the console) at `width` pixels."""
    printed, console = opened(page, width, folder, "--dump-dom")
    told = TOLD.search(printed)
    assert told is not None, printed[:500]
    return int(told[1]), int(told[2]), console
