"""The model file that scoring reads: one module's tensors, and what they mean.

What it does: `write_model` writes model.safetensors as `fl.runs.scoring.load_model` expects it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save
from torch import nn

from fl.data.schema import Schema
from fl.durable import replace_durably
from fl.learning.model import MODEL_FORMAT, model_hash

MODEL_FILE = "model.safetensors"


def write_model(
    folder: Path,
    module: nn.Module,
    schema: Schema,
    features: Sequence[str],
    threshold: float,
    personal: Sequence[str] = (),
) -> None:
    """Write `module`, whose inputs are `features`, into a run's folder.

    `threshold`: the score from 0 to 1 that flags a row. `personal`: layers that each bank has of its own.
    """
    about: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "features": list(features),
        "threshold": threshold,
        "schema": schema.source,
        "model_hash": model_hash(module),
    }
    if personal:
        about["personal"] = list(personal)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    # One entry, because safetensors writes several in an arbitrary order and equal runs leave equal files.
    replace_durably(folder / MODEL_FILE, save(tensors, {"about": json.dumps(about)}))
