"""Which extra of this project brings a package that is not installed, and the command that brings it.

The project is on no index: it is installed from a checkout, by path. A missing package that no extra brings is a fault
of the program and raises an ordinary error.
"""

from __future__ import annotations

EXTRAS = {
    "fast": ("numba",),
    "fl": ("torch", "opacus", "pandas", "pyarrow", "sklearn", "safetensors", "scipy"),
    "assist": ("openai", "httpx2", "pydantic"),
    "flower": ("flwr", "httpx", "grpc"),
    "lightning": ("lightning", "torchmetrics"),
    "examine": ("captum", "fairlearn", "river", "plotly", "jinja2"),
    "demos": ("click", "rich"),
    "benchmarks": ("matplotlib", "jinja2"),
}
CORE = ("numpy", "tenseal", "cryptography")
# Distributions of their own in the same checkout, which bring what these extras name, and the console scripts.
BESIDE = {"demos": "-e . -e ./demos", "benchmarks": "-e . -e ./demos -e ./benchmarks"}


def command(extra: str) -> str:
    """What installs `extra`, to be run in a checkout."""
    return f"pip install {BESIDE[extra]}" if extra in BESIDE else f"pip install -e '.[{extra}]'"


def advice(absent: ModuleNotFoundError) -> str:
    """What is missing and how to install it. Raises `absent` again when no extra brings it."""
    name = (absent.name or "").partition(".")[0]
    if name in CORE:
        return (
            f"{name} is not installed, which everything here needs: run pip install -e . in a checkout of this project"
        )
    extras = [extra for extra, packages in EXTRAS.items() if name in packages]
    if not extras:
        raise absent
    return (
        f"{name} is not installed; it belongs to the extra {' or '.join(map(repr, extras))}: "
        f"run {' or '.join(map(command, extras))} in a checkout of this project"
    )
