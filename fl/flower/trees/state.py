"""A training of trees after so many sums, in the form of the model that offers are for.

A bank moves by releases that the key holder signed, and an offer names the bank's model by its digest. The training is
a pure function of its terms and sums (`fl.trees.progress`), and all of it is in that model. So banks with another plan
or another history hold another model, and refuse each other's offers (`WrongModel`).

The one floating-point array, `next`, is as long as the next sum. All else is kept as bytes, which no round averages.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.flower.errors import ModelMismatch
from fl.flower.models import FlatModel
from fl.trees.packing import packed_length
from fl.trees.progress_file import Kept
from fl.trees.settings import Terms

_TERMS, _KEPT, _NEXT = "terms", "kept", "next"
_NOTHING_LEFT = 1  # length of `next` in a finished training: a model has at least one value


def flat_of(kept: Kept, cut: int) -> FlatModel:
    """The training as the model that offers name. `cut`: bits of a packed integer."""
    progress = kept.progress
    length = _NOTHING_LEFT if progress.finished else packed_length(progress.request.widths, cut)
    text = json.dumps(kept.as_json(), separators=(",", ":"), allow_nan=False).encode()
    arrays: dict[str, NDArray[np.generic]] = {
        _TERMS: np.frombuffer(progress.terms.digest, np.uint8),
        _KEPT: np.frombuffer(text, np.uint8),
        _NEXT: np.zeros(length, "<f8"),
    }
    return FlatModel(arrays)


def kept_of(model: FlatModel, terms: Terms) -> Kept:
    """The inverse of `flat_of`. Raises `ModelMismatch` for a model that is not of a training under `terms`."""
    arrays = model.arrays
    if _TERMS not in arrays or arrays[_TERMS].tobytes() != terms.digest:
        raise ModelMismatch(
            "model.npz is not of the plan in this bank's party file: put the plan's file back, or, for a new run, "
            "move model.npz away; the journal and the file of partners stay"
        )
    try:
        return Kept.from_json(json.loads(arrays[_KEPT].tobytes()), terms)
    except (TreesError, KeyError, ValueError, RecursionError) as fault:
        raise ModelMismatch(f"model.npz is damaged ({fault}): restore it from the bank's backup") from fault
