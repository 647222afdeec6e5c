"""How the loops of this room are compiled: without fast mathematics, which would round differently on each machine."""

from __future__ import annotations

from secagg.compiled import compiled

jit = compiled(fastmath=False)
