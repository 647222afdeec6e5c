"""Uniform and Gaussian numbers from the operating system's generator: the randomness of differential privacy.

What it does: Poisson sampling and Gaussian noise for DP-SGD, drawn from `os.urandom`. There is no seed and
no state, so nothing here can be replayed, forked or restored from a checkpoint.

What it leaves to others: seeded randomness (model weights, batch order, dropout) stays with torch, in
`fl.learning.model` and `fl.learning.training`; keys and encryption randomness belong to `secagg`.

Why not Opacus' generator: its noise is torch's Mersenne Twister, which 624 outputs determine; its
`secure_mode` needs torchcsprng, which no longer builds. Here one normal number costs eight bytes of the
operating system's stream and one inverse of the Gaussian distribution function.

Precision is stated because a proof over the reals and a program differ in it: a normal number has one sign bit and a
52-bit quantile, so |z| <= 8.30, and the tail beyond weighs 1.1e-16 per draw. Noise is added in float64 before rounding
to float32, but floating-point addition is not the real one: attacks on its lowest bits (Mironov, CCS 2012; Jin et al.,
arXiv 2112.05307) and the rounding of clipped sums (Casacuberta et al., arXiv 2207.10635) are not excluded by this
module. What leaves a bank afterwards is quantised to an integer grid far coarser than those bits (`secagg`), which
weakens these attacks but proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

Entropy = Callable[[int], bytes]  # number of bytes -> that many random bytes


def uniforms(count: int, *, entropy: Entropy = os.urandom) -> NDArray[np.float64]:
    """float64[count], independent and uniform on the multiples of 2^-53 in [0, 1)."""
    return (_words(count, entropy) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(count: int, *, entropy: Entropy = os.urandom) -> NDArray[np.float64]:
    """float64[count], independent standard normal numbers, |z| <= 8.30.

    By inversion: z = +-ndtri(k) with k uniform on the odd multiples of 2^-54 in (0, 1/2). Working in the
    lower half keeps the tail at full precision, where 1 - k would round.
    """
    words = _words(count, entropy)
    quantile = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-53
    magnitude: NDArray[np.float64] = torch.special.ndtri(torch.from_numpy(quantile)).numpy()
    return np.where(words & np.uint64(1), magnitude, -magnitude)


def poisson_sample(rows: int, sample_rate: float, *, entropy: Entropy = os.urandom) -> NDArray[np.int64]:
    """The rows of one Poisson batch, int64, ascending.

    Each of `rows` rows is in it independently with probability `sample_rate`.

    The batch may be empty: a step over an empty batch still adds noise, and leaving it out would reveal
    that it was empty.
    """
    return np.flatnonzero(uniforms(rows, entropy=entropy) < sample_rate)


def _words(count: int, entropy: Entropy) -> NDArray[np.uint64]:
    return np.frombuffer(entropy(8 * count), dtype="<u8")
