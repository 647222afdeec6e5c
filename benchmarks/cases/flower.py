"""Flower's SecAgg+ (Bell et al., CCS 2020), through the functions of the installed `flwr`.

Clients run flwr's own client functions for all four stages (setup, share keys, collect masked vectors, unmask). They
are timed by wrappers around the functions that they call. flwr's server arithmetic is part of a workflow that needs a
running grid. It is therefore repeated here with flwr's functions in flwr's order (`secaggplus_workflow.py`:
collect_masked_vectors_stage and unmask_stage). Up to 9 clients, every client is a neighbour of every other. With more
clients, each has 8 neighbours on flwr's circle, since more would slow SecAgg+ down unfairly. Everything else has flwr's
defaults: 22-bit grid, modulus 2**32, weight 1000.

SecAgg+ protects differently: it has no key holder and survives dropouts, but its masks come from 32-bit seeds and
numpy's generator.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.cases import CaseResult, compared
from benchmarks.errors import CaseNotRunnable
from benchmarks.meter import Meter
from benchmarks.workload import CLIP, F64, Vectors

TARGET_RANGE = 1 << 22
MOD_RANGE = 1 << 32
MAX_WEIGHT = 1000.0
NEIGHBOURS = 8  # at most; half to either side

_STAGE_OF = {
    "quantize": "pack",
    "parameters_multiply": "pack",
    "parameters_to_ndarrays": "pack",
    "factor_combine": "pack",
    "pseudo_rand_gen": "mask",
    "generate_shared_key": "mask",
    "decrypt": "mask",
    "parameters_addition": "mask",
    "parameters_subtraction": "mask",
    "parameters_mod": "mask",
    "ndarray_to_bytes": "serialize",
}


class SecAggPlusAverage:
    """One round without dropouts."""

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        if importlib.util.find_spec("flwr") is None:
            raise CaseNotRunnable("flwr is not installed (extra flower)")
        if vectors.workload.clients < 3:
            raise CaseNotRunnable("SecAgg+ needs at least 3 clients")
        if vectors.workload.clients * TARGET_RANGE >= MOD_RANGE:
            raise CaseNotRunnable("sums would overflow flwr's default modulus")
        logging.getLogger("flwr").setLevel(logging.ERROR)
        # Imported by its name as a text, since the package has a function of the same name that hides the module.
        self._mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
        self._vectors = vectors
        self._circle = [sorted(self._neighbours(i)) for i in range(vectors.workload.clients)]
        return {
            "threads": 1,
            "neighbours": len(self._circle[0]) - 1,
            "target_range": TARGET_RANGE,
            "modulus_range": MOD_RANGE,
            "seed_bits": 32,
        }

    def _neighbours(self, client: int) -> set[int]:
        """The client itself and its neighbours on flwr's circle, the same number on either side."""
        clients = self._vectors.workload.clients
        half = min(NEIGHBOURS, clients) // 2
        return {(client + offset) % clients for offset in range(-half, half + 1)}

    def repeat(self, meter: Meter) -> CaseResult:
        states, ciphertexts = self._share_keys(meter)
        total: list[Any] = []
        for client, state in enumerate(states):
            masked = self._masked_vector(state, ciphertexts[client], self._vectors.update(client), meter)
            total = self._add(total, masked, meter)
        with meter.phase("finish"):
            from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_mod

            total = parameters_mod(total, MOD_RANGE)
        average = self._unmask(states, total, meter)
        return compared(average, self._vectors, 2 * CLIP / TARGET_RANGE)

    def _share_keys(self, meter: Meter) -> tuple[list[Any], list[dict[int, bytes]]]:
        """Stages 0 and 1. Returns every client's state, and the encrypted shares that it receives, by sender."""
        from flwr.common.secure_aggregation.secaggplus_constants import Key

        mod, shares = self._mod, len(self._circle[0])
        settings = {
            Key.SAMPLE_NUMBER: len(self._circle),
            Key.SHARE_NUMBER: shares,
            Key.THRESHOLD: max(2, shares // 2 + 1),
            Key.CLIPPING_RANGE: CLIP,
            Key.TARGET_RANGE: TARGET_RANGE,
            Key.MOD_RANGE: MOD_RANGE,
            Key.MAX_WEIGHT: MAX_WEIGHT,
        }
        states, public = [], {}
        inboxes: list[dict[int, bytes]] = [{} for _ in self._circle]
        with meter.phase("setup"), meter.stage("keygen"):
            for client in range(len(self._circle)):
                state = mod.SecAggPlusState()
                state.nid = client
                sent = mod._setup(state, settings)
                public[client] = (sent[Key.PUBLIC_KEY_1], sent[Key.PUBLIC_KEY_2])
                states.append(state)
            for client, state in enumerate(states):
                keys = {str(i): list(public[i]) for i in self._circle[client]}
                sent = mod._share_keys(state, keys)
                for to, data in zip(sent[Key.DESTINATION_LIST], sent[Key.CIPHERTEXT_LIST], strict=True):
                    inboxes[to][client] = data
        return states, inboxes

    def _masked_vector(self, state: Any, inbox: dict[int, bytes], update: Any, meter: Meter) -> list[bytes]:
        """Stage 2 at a client."""
        from flwr.common import ndarrays_to_parameters
        from flwr.common.secure_aggregation.secaggplus_constants import Key

        # flwr passes trained parameters to its mod in this form. Not timed: every Flower app does this conversion.
        parameters = ndarrays_to_parameters([update])
        configs = {Key.CIPHERTEXT_LIST: list(inbox.values()), Key.SOURCE_LIST: list(inbox)}
        with _timed(self._mod, meter), meter.phase("client"):
            sent = self._mod._collect_masked_vectors(state, configs, int(MAX_WEIGHT), parameters)
        data: list[bytes] = sent[Key.MASKED_PARAMETERS]
        meter.wire_bytes["contribution"] = sum(map(len, data))
        return data

    def _add(self, total: list[Any], data: list[bytes], meter: Meter) -> list[Any]:
        """collect_masked_vectors_stage at the server."""
        from flwr.common import bytes_to_ndarray
        from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition

        with meter.phase("server"):
            with meter.stage("check"):
                received = [bytes_to_ndarray(part) for part in data]
            with meter.stage("sum"):
                return parameters_addition(total, received) if total else received

    def _unmask(self, states: list[Any], masked: list[Any], meter: Meter) -> F64:
        """unmask_stage: collect the shares of every seed, combine them, subtract the masks and dequantise."""
        from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
        from flwr.common.secure_aggregation.crypto.shamir import combine_shares
        from flwr.common.secure_aggregation.quantization import dequantize
        from flwr.common.secure_aggregation.secaggplus_constants import Key
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

        collected: dict[int, list[bytes]] = {client: [] for client in range(len(states))}
        with meter.phase("open"):
            with meter.stage("verify"):
                for client, state in enumerate(states):
                    asked = {Key.ACTIVE_NODE_ID_LIST: self._circle[client], Key.DEAD_NODE_ID_LIST: []}
                    sent = self._mod._unmask(state, asked)
                    for owner, share in zip(sent[Key.NODE_ID_LIST], sent[Key.SHARE_LIST], strict=True):
                        collected[owner].append(share)
                seeds = [combine_shares(shares) for shares in collected.values()]
            with meter.stage("decrypt"):
                shapes = arithmetic.get_parameters_shape(masked)
                for seed in seeds:
                    masked = arithmetic.parameters_subtraction(masked, pseudo_rand_gen(seed, MOD_RANGE, shapes))
                masked = arithmetic.parameters_mod(masked, MOD_RANGE)
            with meter.stage("unpack") as stage:
                weight, masked = arithmetic.factor_extract(masked)
                average: F64 = dequantize(masked, CLIP, TARGET_RANGE)[0]
                average += -(len(states) - 1) * CLIP
                average *= TARGET_RANGE / weight
                stage.bytes += average.nbytes
        return average


@contextmanager
def _timed(module: ModuleType, meter: Meter) -> Iterator[None]:
    """Within the block, time the functions that flwr's client functions call, by stage."""
    originals = {name: getattr(module, name) for name in _STAGE_OF}

    def wrap(function: Callable[..., Any], stage_name: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            with meter.stage(stage_name) as stage:
                result = function(*arguments)
                if isinstance(result, list) and result and isinstance(result[0], np.ndarray):
                    stage.bytes += sum(part.nbytes for part in result)
            return result

        return timed

    try:
        for name, function in originals.items():
            setattr(module, name, wrap(function, _STAGE_OF[name]))
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)
