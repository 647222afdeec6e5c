"""A client's own memory: one roster per offer, one use per update, and the hash of what it sent before it sends it.

After a crash nothing is encrypted again under the same masks: ephemeral keys and seeds were in memory only, so a round
that was joined and not finished is abandoned. The journal holds hashes, never values.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg.errors import RosterMismatch, StepNotIncreasing, UpdateReused
from secagg.eventlog import IN_MEMORY, EventLog
from secagg.identity import Identity

PURPOSE = "client journal"


class UpdateReuseWarning(UserWarning):
    """An update enters a second roster at the caller's request."""


class Journal:
    """path: a file, or `Journal.in_memory` for a client that lives for one process."""

    def __init__(self, path: str | Path, owner: Identity) -> None:
        self._log = EventLog(path, owner, PURPOSE)

    @classmethod
    def in_memory(cls, owner: Identity) -> Journal:
        """A journal that forgets everything when the process ends."""
        return cls(IN_MEMORY, owner)

    def joined(self, step: int, model: bytes, round_id: bytes, offer: bytes) -> None:
        """Remember a join. Raises `StepNotIncreasing`: a client joins each step once, in rising order."""
        self.check_step(step)
        self._log.append("joined", step, model, round_id, offer)

    def check_step(self, step: int) -> None:
        last = self._log.last("joined")
        if last is not None and step <= last.step:
            raise StepNotIncreasing(f"step: expected more than {last.step}, the last one joined, got {step}")

    def contributing(
        self,
        step: int,
        model: bytes,
        round_id: bytes,
        roster: bytes,
        members: bytes,
        update: bytes,
        weight: int,
        allow_reuse: bool,
    ) -> None:
        """Bind this offer to one roster and this update to its members; durable before anything is encrypted.

        roster, members, update: hashes of 32 bytes. Raises `RosterMismatch` for a second roster of the same offer and
        `UpdateReused` for an update that entered another roster. The exception is one whose round was aborted, with
        identical members and weight: then both sums, even if both came out, are the same sum.
        """
        for event in self._log.events(step, "contributing"):
            if event.round_id == round_id:
                raise RosterMismatch(
                    f"step {step}: this offer already had a roster; nothing is encrypted under a second"
                )
        circumstances = members + struct.pack("<Q", weight)
        for event in self._log.events(kind="contributing"):
            if event.body[32:64] == update and not (
                event.body[64:] == circumstances and self._log.events(event.step, "aborted")
            ):
                if not allow_reuse:
                    raise UpdateReused(
                        f"this update entered step {event.step} with other members, or a round that was not aborted; "
                        "train a fresh one (with DP: fresh noise), or pass allow_reuse=True and accept differencing"
                    )
                warnings.warn(
                    f"an update of step {event.step} enters another roster: the two sums can be differenced",
                    UpdateReuseWarning,
                    stacklevel=3,
                )
        self._log.append("contributing", step, model, round_id, roster + update + circumstances)

    def sealed(self, step: int, model: bytes, round_id: bytes, contribution: bytes) -> None:
        """Remember the hash of the contribution that will be sent; only identical bytes are ever sent again."""
        self._log.append("sealed", step, model, round_id, contribution)

    def finished(self, step: int, model: bytes, round_id: bytes, release: bytes) -> None:
        self._log.append("finished", step, model, round_id, release)

    def aborted(self, step: int, model: bytes, round_id: bytes) -> None:
        self._log.append("aborted", step, model, round_id)

    def unfinished(self) -> tuple[int, ...]:
        """Steps that were joined and neither finished nor aborted: after a restart, abandoned."""
        joined = {event.step for event in self._log.events(kind="joined")}
        done = {event.step for kind in ("finished", "aborted") for event in self._log.events(kind=kind)}
        return tuple(sorted(joined - done))

    def close(self) -> None:
        """Release the lock on the file."""
        self._log.close()


def update_hash(update: NDArray[np.floating]) -> bytes:
    """SHA-256 of an update's dtype and values."""
    digest = hashlib.sha256(update.dtype.str.encode())
    digest.update(np.ascontiguousarray(update).data.cast("B"))
    return digest.digest()
