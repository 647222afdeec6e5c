"""The model file that scoring reads: one module's tensors, and what they mean.

What it does: `write_model` writes model.safetensors as `fl.runs.scoring.load_model` expects it. The file names the
SHA-256 of what the model was made with, and `require_made_with` refuses a folder where that has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save
from torch import nn

from fl.counts.entity_risk import EPISODES
from fl.counts.release import TOTALS, totals_digest
from fl.data.schema import Schema
from fl.durable import replace_durably
from fl.errors import RunFolderError
from fl.learning.model import MODEL_FORMAT, model_hash
from fl.runs.folder import RESTORE

MODEL_FILE = "model.safetensors"
STATISTICS = "statistics"  # folder of the release, beside the model
SCHEMA = "schema"  # names the schema among them, whose text is in the model file itself


def write_model(
    folder: Path,
    module: nn.Module,
    schema: Schema,
    features: Sequence[str],
    threshold: float,
    personal: Sequence[str] = (),
) -> None:
    """Write `module`, whose inputs are `features`, into a run's folder, where its release is already.

    `threshold`: the score from 0 to 1 that flags a row. `personal`: layers that each bank has of its own.
    """
    about: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "features": list(features),
        "threshold": threshold,
        "schema": schema.source,
        "model_hash": model_hash(module),
        "made_with": made_with(folder, schema),
    }
    if personal:
        about["personal"] = list(personal)
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    # One entry, because safetensors writes several in an arbitrary order and equal runs leave equal files.
    replace_durably(folder / MODEL_FILE, save(tensors, {"about": json.dumps(about)}))


def made_with(folder: Path, schema: Schema) -> dict[str, str]:
    """By name, the SHA-256 of the schema, and of the totals and constants of the release in a run's folder.

    Equal runs without privacy have equal ones: neither the salt nor what the release took is in them.
    """
    found, statistics = {SCHEMA: hashlib.sha256(schema.source.encode()).hexdigest()}, folder / STATISTICS
    if (statistics / TOTALS).exists():
        found[f"{STATISTICS}/{TOTALS}"] = totals_digest(statistics)
    if (statistics / EPISODES).exists():
        found[f"{STATISTICS}/{EPISODES}"] = hashlib.sha256((statistics / EPISODES).read_bytes()).hexdigest()
    return found


def require_made_with(folder: Path, named: Mapping[str, object], schema: Schema) -> None:
    """Refuse a folder whose release or schema is not the one that the model was made with, by `RunFolderError`.

    `named`: what the model file says of them. A file that it does not name is refused too.
    """
    found = made_with(folder, schema)
    for name in sorted(found.keys() | named.keys()):
        if found.get(name) != named.get(name):
            path = f"{folder / MODEL_FILE}, schema" if name == SCHEMA else folder / name
            raise RunFolderError(
                f"{path}: not what the model was made with: expected SHA-256 {named.get(name)}, got {found.get(name)}: "
                f"{RESTORE}"
            )
