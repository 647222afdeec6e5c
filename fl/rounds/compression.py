"""Make messages smaller in ways that work under encryption: fewer bits, fewer layers, differences of weights.

What it does: decides for every round the number of bits of a coordinate and the layers that are sent, and freezes the
other layers in local training.

- Bits: a schedule such as "1:8,6:16", from round 1 with 8 bits and from round 6 with 16. An encrypted sum is a sum of
  integers, so a coarser grid is the only quantisation that sums exactly; with fewer bits, the plan packs more values
  into a ciphertext. A coarse grid does little harm in early rounds; the last rounds decide the metrics.
- Layers: groups such as "hidden1/hidden2,logit" that take turns, one group a round. Layers that are not sent are
  frozen at every bank, because the banks' models would differ otherwise: block coordinate descent.
- Differences: an update is the change by training. It is small and centred on 0, so it takes a small clip, and at equal
  bits the grid is finer by the ratio of the two clips.

Top-k selection and random masks are left out on purpose: the choice of coordinates is a function of a bank's rows.

Sources: layer-wise partial sharing as in Shokri, Shmatikov, CCS 2015, with layers chosen by a public rule instead of by
size; uniform quantisation under secure aggregation as in Bonawitz, Salehi, Konecny, McMahan, Gruteser, "Federated
Learning with Autotuned Communication-Efficient Secure Aggregation", Asilomar 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fl import options
from fl.errors import CompressionError, ModelError
from fl.learning.model import Layout, layer_mask


@dataclass(frozen=True)
class CompressionSettings:
    """The `[compression]` table of config.toml. All of it is public."""

    bits: str | None = None  # FROM:BITS,FROM:BITS; None: those of the aggregation in every round
    layers: str | None = None  # groups, as in "hidden1/hidden2,logit"; None: all layers in every round

    def __post_init__(self) -> None:
        options.check(self, CompressionError)
        if self.bits is not None:
            _schedule(self.bits)


@dataclass(frozen=True)
class Compression:
    """`bits`: ascending (first round, bits of a coordinate). `groups`: layers in turn; empty: all layers."""

    model: Layout
    bits: tuple[tuple[int, int], ...]
    groups: tuple[tuple[str, ...], ...] = ()

    def bits_of(self, number: int) -> int:
        """Bits of one coordinate in round `number`, sign included."""
        return next(bits for first, bits in reversed(self.bits) if first <= number)

    def capped(self, bits: int) -> Compression:
        """The same with at most `bits` bits in any round."""
        return replace(self, bits=tuple((first, min(most, bits)) for first, most in self.bits))

    def sent(self, number: int) -> NDArray[np.bool_]:
        """bool[length]: coordinates of the layers whose turn it is in round `number`."""
        if not self.groups:
            return np.ones(self.model.length, dtype=np.bool_)
        return layer_mask(self.model, self.groups[(number - 1) % len(self.groups)])


def compression_of(settings: CompressionSettings | None, model: Layout, value_bits: int) -> Compression:
    """The compression of the settings; `value_bits` in every round where they set none.

    Raises `CompressionError` for an invalid schedule or an unknown layer.
    """
    if settings is None:
        return Compression(model, ((1, value_bits),))
    bits = ((1, value_bits),) if settings.bits is None else _schedule(settings.bits)
    named = [] if settings.layers is None else settings.layers.split("/")
    groups = tuple(tuple(layer.strip() for layer in group.split(",")) for group in named)
    try:
        for group in groups:
            layer_mask(model, group)
    except ModelError as fault:
        raise CompressionError(f"layers: {fault}; write groups as in hidden1/hidden2,logit") from fault
    return Compression(model, bits, groups)


@contextmanager
def frozen(module: nn.Module, model: Layout, trained: NDArray[np.bool_]) -> Iterator[None]:
    """Leave out of training every parameter of `module` that has no coordinate in `trained`, bool[model.length]."""
    chosen = {slot.name for slot in model.slots if trained[slot.start : slot.start + slot.size].any()}
    held = [p for name, p in module.named_parameters() if name not in chosen and p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def _schedule(text: str) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [tuple(int(part) for part in pair.split(":")) for pair in text.split(",")]
        steps = tuple((first, bits) for first, bits in pairs)
    except ValueError as fault:
        got = options.shown(text)
        raise CompressionError(f"bits: expected FROM:BITS pairs as in 1:8,6:16, got {got}") from fault
    rounds = [first for first, _ in steps]
    if rounds[0] != 1 or rounds != sorted(set(rounds)):
        raise CompressionError(
            f"bits: expected ascending rounds that begin at 1, as in 1:8,6:16, got {options.shown(text)}"
        )
    for _, bits in steps:
        try:
            options.VALUE_BITS.of(bits)
        except options.Refused as fault:
            raise CompressionError(f"bits: {fault}") from None
    return steps
