"""The arithmetic of a client and of a key holder elsewhere than on this machine's processor, for instance on a GPU.

By default both compute with numpy and numba. A role that is given a `Device` asks it for the arithmetic alone: from an
update to the bytes of its ciphertext, and from the bytes of a sum to exact integers. Residues and verdicts are the
same, bit for bit, for the same randomness. Keys, agreement, signatures, journal and ledger stay in the role. Nothing
here imports a framework; `fl.secure.session.arithmetic_on` makes a `Device` of a torch device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.blocks import Payload
from secagg.engines import DecryptionKey
from secagg.masks import MaskTerm
from secagg.packing import IntegerSums
from secagg.plan import RoundPlan
from secagg.publickey import PublicKey
from secagg.stages import StageClock

Update = Any
"""What a client contributes: a numpy array, float32 or float64, or what the client's `Device` takes in its place."""


class Device(Protocol):
    """Arithmetic of roles on one device. It holds no secret between calls."""

    def in_memory(self, update: Update) -> NDArray[np.floating]:
        """The values of an update as a numpy array. Raises `UpdateTypeUnsupported` for what it does not take."""

    def seal(
        self,
        update: Update,
        weight: int,
        public_key: PublicKey,
        terms: Sequence[MaskTerm],
        plan: RoundPlan,
        clock: StageClock,
    ) -> tuple[bytearray, int]:
        """Quantise, pack, encrypt and mask an update that `packing.check_update` passed in memory.

        terms: the masks of this client, none where masking is off. Returns the payload (`blocks.py`) and how many
        values lay outside [-clip, clip]. Raises `WrongKey` for a public key that is not well formed.
        """

    def open_sum(
        self,
        payload: Payload,
        secret_key: DecryptionKey,
        seed_terms: Sequence[MaskTerm],
        plan: RoundPlan,
        clients: int,
        clock: StageClock,
    ) -> IntegerSums:
        """As `opening.open_sum`: the same sums, and the same refusals."""
