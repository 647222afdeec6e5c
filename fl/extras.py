"""Name the extra of this project that installs a missing package, and the command that installs the extra.

The project is not on a package index: it is installed from a checkout, by path. A missing package that belongs to no
extra is a fault of the program and raises an ordinary error.
"""

from __future__ import annotations

EXTRAS = {
    "fast": ("numba",),
    "fl": ("torch", "opacus", "pandas", "pyarrow", "sklearn", "safetensors", "scipy"),
    "assist": ("openai", "httpx2", "pydantic"),
    "flower": ("flwr", "httpx", "grpc"),
    "lightning": ("lightning", "torchmetrics"),
    "export": ("onnx", "onnxruntime"),
    "trees": ("numba", "xgboost"),
    "serve": ("fastapi", "uvicorn"),
    "examine": ("captum", "fairlearn", "river", "plotly", "jinja2"),
    "demos": ("click", "rich"),
    "benchmarks": ("matplotlib", "jinja2"),
}
CORE = ("numpy", "tenseal", "cryptography")
# Separate distributions in the same checkout. They install the packages of these extras and the console scripts.
BESIDE = {"demos": "-e . -e ./demos", "benchmarks": "-e . -e ./demos -e ./benchmarks"}


def command(extra: str) -> str:
    """The command that installs `extra`, to be run in a checkout."""
    return f"pip install {BESIDE[extra]}" if extra in BESIDE else f"pip install -e '.[{extra}]'"


def advice(absent: ModuleNotFoundError) -> str:
    """What is missing and how to install it. Raises `absent` again when it belongs to no extra."""
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
