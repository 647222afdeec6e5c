"""What a bank of a private run knows after so many releases, in the form of the model that offers are for.

A bank moves by releases that the key holder signed, and an offer names the bank's model by its digest. So everything
that follows from releases is in that model: the counts that were released, the steps' weights and velocity. The
fingerprint of the plan is in it as well. Banks with another plan, other members or another salt therefore hold another
model, and refuse each other's offers (`WrongModel`).

The one floating-point array, `next`, is as long as the next sum. All else is kept as bytes, which no round averages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.flower.errors import ModelMismatch
from fl.flower.models import FlatModel
from fl.rounds.algorithms.state import State

Integers = NDArray[np.int64]
_MODEL, _MEMORY = "model", "memory "


def _float32(raw: bytes) -> NDArray[np.floating]:
    return np.frombuffer(raw, np.float32)


def _float64(raw: bytes) -> NDArray[np.floating]:
    return np.frombuffer(raw, np.float64)


_READ = {"<f4": _float32, "<f8": _float64}


@dataclass(frozen=True)
class RunState:
    """`plan`: 32 bytes, its fingerprint. `counts`: int64[n], all released so far. `steps`: how many were taken.

    `training`: the state of the steps; None before all counts are there. `length`: integers in the next sum.
    """

    plan: bytes
    counts: Integers = field(repr=False)
    steps: int
    training: State | None = field(repr=False)
    length: int

    def flat(self) -> FlatModel:
        """As the model that offers name."""
        arrays: dict[str, NDArray[np.generic]] = {
            "plan": np.frombuffer(self.plan, np.uint8),
            "counts": self.counts.astype("<i8"),
            "steps": np.array([self.steps], "<i8"),
            "next": np.zeros(self.length, "<f8"),
        }
        if self.training is not None:
            kept = {_MODEL: self.training.model, **{_MEMORY + n: a for n, a in self.training.memory.items()}}
            for name, array in kept.items():
                little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                shape = "x".join(map(str, little.shape))
                arrays[f"{name}|{little.dtype.str}|{shape}"] = np.frombuffer(little.tobytes(), np.uint8)
        return FlatModel(arrays)

    @classmethod
    def of(cls, model: FlatModel, plan: bytes) -> RunState:
        """The inverse of `flat`. Raises `ModelMismatch` for a model that is not of this plan."""
        arrays = dict(model.arrays)
        found = arrays.pop("plan", None)
        if found is None or found.tobytes() != plan:
            raise ModelMismatch(
                "model.npz is not of the plan in this bank's party file: put the plan's file back, or, for a new run, "
                "move model.npz away; journal and ledgers stay"
            )
        try:
            counts, steps = arrays.pop("counts").astype(np.int64), int(arrays.pop("steps")[0])
            length = arrays.pop("next").size
            memory = {}
            for name, raw in arrays.items():
                place, dtype, shape = name.split("|")
                sides = tuple(int(side) for side in shape.split("x"))
                memory[place] = _READ[dtype](raw.tobytes()).reshape(sides)
            training = None
            if memory:
                first = memory.pop(_MODEL)
                training = State(
                    first.astype(np.float32), {name.removeprefix(_MEMORY): each for name, each in memory.items()}
                )
        except (KeyError, ValueError, IndexError, TypeError) as fault:
            raise ModelMismatch(f"model.npz is damaged ({fault}): restore it from the bank's backup") from fault
        return cls(plan, counts, steps, training, length)
