"""The fraud model, and the one vector that represents it in messages.

What it does: builds the network (inputs -> 64 -> 32 -> 1 logit, ReLU, dropout 0.3), turns the trainable
state of *any* module into one float32 vector and back, and hashes a model, so that a round names the model
it is for.

The network has no BatchNorm: its running statistics are functions of the rows without noise, and it has no
per-row gradients (Opacus refuses it for the same reason).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl.errors import ModelError

MODEL_FORMAT = "fl fraud model 1"  # format of a model file
HIDDEN = (64, 32)  # widths of the hidden layers
DROPOUT = 0.3  # probability of a hidden unit being zeroed in training
PRIOR = 0.01  # share of frauds that the untrained model assumes: a public guess, not a statistic of rows


@dataclass(frozen=True)
class Slot:
    """One tensor's place in the vector: `vector[start:start + size]` is the tensor in C order."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The order of a module's tensors in its vector, and the tensors that the vector leaves out.

    First the parameters in `named_parameters()` order (a tied parameter once), then the persistent
    floating-point buffers in `named_buffers()` order. `excluded` names the persistent integer and boolean
    buffers (counters, index tables): their average has no meaning, so every party keeps its own.
    """

    slots: tuple[Slot, ...]
    excluded: tuple[str, ...]

    @property
    def length(self) -> int:
        return sum(slot.size for slot in self.slots)


def build_model(
    inputs: int,
    *,
    seed: int,
    hidden: tuple[int, ...] = HIDDEN,
    dropout: float = DROPOUT,
    prior: float = PRIOR,
) -> nn.Sequential:
    """The fraud model: float32[n, inputs] -> float32[n, 1] logits.

    `seed` fixes the initial weights only; the process-wide generator of torch is left as it was. The last
    bias starts at the logit of `prior`: otherwise the first noisy steps would only learn that fraud is rare.
    """
    if inputs < 1:
        raise ModelError(f"a model needs at least one input feature, got {inputs}: check the schema's columns")
    if not 0.0 < prior < 1.0:
        raise ModelError(f"expected a prior (share of frauds) between 0 and 1, got {prior}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = inputs
        for number, units in enumerate(hidden, start=1):
            layers[f"hidden{number}"] = nn.Linear(width, units)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"dropout{number}"] = nn.Dropout(dropout)
            width = units
        output = nn.Linear(width, 1)
        nn.init.constant_(output.bias, math.log(prior / (1 - prior)))
        layers["logit"] = output
    return nn.Sequential(layers)


def layout(module: nn.Module) -> Layout:
    """Where each tensor of `module` lies in its vector.

    Raises `ModelError` for a complex tensor, which a vector of real numbers cannot hold.
    """
    slots: list[Slot] = []
    excluded: list[str] = []
    start = 0
    for name, tensor, is_parameter in _state(module):
        if tensor.is_complex():
            raise ModelError(f"{name} is {tensor.dtype}: split it into real and imaginary parts before federating")
        if not tensor.is_floating_point():
            if is_parameter:
                raise ModelError(f"parameter {name} is {tensor.dtype}: only floating-point parameters can be averaged")
            excluded.append(name)
            continue
        slots.append(Slot(name, tuple(tensor.shape), tensor.dtype, start))
        start += tensor.numel()
    return Layout(tuple(slots), tuple(excluded))


def layers_of(layout: Layout, chosen: NDArray[np.bool_]) -> list[str]:
    """Names of the layers (modules that own a tensor) that `chosen`, bool[layout.length], touches, in order."""
    names = [slot.name.rpartition(".")[0] for slot in layout.slots if chosen[slot.start : slot.start + slot.size].any()]
    return list(dict.fromkeys(names))


def layer_mask(layout: Layout, layers: Sequence[str]) -> NDArray[np.bool_]:
    """bool[layout.length]: the coordinates of `layers`. Raises `ModelError` for an unknown layer."""
    known = layers_of(layout, np.ones(layout.length, dtype=np.bool_))
    if unknown := [layer for layer in layers if layer not in known]:
        raise ModelError(f"no layers {', '.join(unknown)}: the model has {', '.join(known)}")
    mask = np.zeros(layout.length, dtype=np.bool_)
    for slot in layout.slots:
        mask[slot.start : slot.start + slot.size] = slot.name.rpartition(".")[0] in layers
    return mask


def flatten(module: nn.Module) -> NDArray[np.float32]:
    """`module`'s parameters and floating-point buffers as float32[layout(module).length], in the order of `layout`.

    Exact for float32, float16 and bfloat16 tensors; float64 is rounded to float32. Raises `ModelError` for a finite
    float64 beyond float32. NaN and infinity are returned; the caller refuses them.
    """
    slots = layout(module).slots
    vector = np.empty(sum(slot.size for slot in slots), dtype=np.float32)
    tensors = {name: tensor for name, tensor, _ in _state(module)}
    for slot in slots:
        tensor = tensors[slot.name].detach()
        values = tensor.to(device="cpu", dtype=torch.float32)
        if slot.dtype == torch.float64 and (tensor.cpu().isfinite() & ~values.isfinite()).any():
            raise ModelError(f"{slot.name} holds values beyond float32 (+-3.4e38), and models are averaged in float32")
        vector[slot.start : slot.start + slot.size] = values.reshape(-1).numpy()
    return vector


def unflatten(module: nn.Module, vector: NDArray[np.float32] | NDArray[np.float64]) -> None:
    """Write `vector` into `module`, restoring each tensor's shape, dtype and device.

    `vector`: shape (layout(module).length,), finite.

    Raises `ModelError`, with the module unchanged, for another length, for a NaN or infinity, and for a value beyond
    its tensor's dtype: 1e5 would be infinite in float16.
    """
    slots = layout(module).slots
    length = sum(slot.size for slot in slots)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below
        values = np.asarray(vector).astype(np.float32)
    if values.shape != (length,):
        raise ModelError(
            f"expected a vector of shape ({length},), got {values.shape}: it comes from another "
            "architecture or another list of features"
        )
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise ModelError(f"{count} of {length} values are NaN or infinite: a model that has diverged is not loaded")
    parts: dict[str, torch.Tensor] = {}
    for slot in slots:
        part = torch.from_numpy(values[slot.start : slot.start + slot.size]).reshape(slot.shape)
        parts[slot.name] = part.to(slot.dtype)
        if beyond := int((~parts[slot.name].to(torch.float32).isfinite()).sum()):
            raise ModelError(
                f"{beyond} of {slot.size} values of {slot.name} are beyond {slot.dtype}, up to "
                f"{float(part.abs().max()):.3g}: a model that overflows is not loaded; keep it in float32"
            )
    tensors = {name: tensor for name, tensor, _ in _state(module)}
    with torch.no_grad():
        for name, values_of in parts.items():
            tensors[name].copy_(values_of)


def model_hash(module: nn.Module) -> str:
    """SHA-256 (64 hexadecimal digits) over every parameter and persistent buffer.

    Name, dtype, shape and little-endian bytes of each enter the hash.

    Excluded buffers enter it, too: banks with the same hash have the same model, not only the same vector.
    Every field of variable length is preceded by its length, so that different models have different encodings.
    """
    digest = hashlib.sha256(b"fl model v1")
    for name, tensor, _ in _state(module):
        for text in (name, str(tensor.dtype)):
            encoded = text.encode()
            digest.update(struct.pack("<Q", len(encoded)) + encoded)
        digest.update(struct.pack(f"<Q{tensor.dim()}Q", tensor.dim(), *tensor.shape))
        # Viewed as bytes because numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _state(module: nn.Module) -> list[tuple[str, torch.Tensor, bool]]:
    """(name, tensor, is_parameter): parameters, then persistent buffers.

    Non-persistent buffers are left out, because they are derived and not learned.
    """
    persistent = module.state_dict().keys()
    state: list[tuple[str, torch.Tensor, bool]] = [(name, p, True) for name, p in module.named_parameters()]
    state += [(name, b, False) for name, b in module.named_buffers() if name in persistent]
    return state
