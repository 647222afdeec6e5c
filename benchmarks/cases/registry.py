"""All cases by name: what each is, which class runs it, and its largest workload.

The engines come from `secagg` itself, so a new engine is measured without a change here. A case is imported only in the
process that runs it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import Case
from benchmarks.cases.stock_tenseal import SETTINGS
from benchmarks.errors import BenchmarkSettingsError

STACKS = (1, 2, 4, 8, 16, 32)
MOST_STACKED = 8  # contributions per pass where nothing is asked for: as many as the headline has clients


@dataclass(frozen=True)
class Entry:
    """A case.

    name: for options and files.  label: for people.  factory: "module:class".  options: arguments of the class.
    family: "plain", "secagg", "stock", "flower", "device" or "round".  ours: whether it is this project's code; the
    others are the controls of a comparison.  asked_for: whether it is measured only where it is asked for by name.
    slow: takes seconds per client, so in quick runs only two clients encrypt, and it is repeated less often.  longest,
    most: largest length and largest number of clients that it runs with.
    """

    name: str
    label: str
    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    family: str = "plain"
    ours: bool = False
    asked_for: bool = False
    slow: bool = False
    longest: int = 10**8
    most: int = 65_536

    @property
    def process(self) -> str:
        """Name of the worker process that runs it. Only cases that load the same libraries share a process."""
        if self.family in ("device", "round", "stock"):
            return self.family
        if self.family != "secagg":
            return self.name
        engine, device = self.options["engine"], self.options.get("device") or self.options.get("sums_on")
        return str(engine) if device is None else f"{engine} beside torch on {device}"

    def make(self) -> Case:
        """An instance, in this process."""
        module, name = self.factory.split(":")
        made: Case = getattr(importlib.import_module(f"benchmarks.cases.{module}"), name)(**self.options)
        return made


def cases(device: str = "cpu", threads: int | None = None) -> dict[str, Entry]:
    """Every case by name, for runs on `device` ("cpu" or "cuda"). threads: for masks and torch; None for all."""
    entries = [
        Entry("plain-numpy", "plain FedAvg, numpy", "plain:NumpyAverage"),
        Entry(f"plain-torch-{device}", f"plain FedAvg, torch on {device}", "plain:TorchAverage", {"device": device}),
        *_own(threads, device),
        *_stock(),
        Entry(
            "flower-secagg-plus",
            "Flower SecAgg+ (masks, 32-bit seeds)",
            "flower:SecAggPlusAverage",
            family="flower",
            longest=10**7,
            most=128,
        ),
        *_device(device),
        *_rounds(device, threads),
    ]
    return {entry.name: entry for entry in entries}


def find(name: str, device: str, threads: int | None) -> Entry:
    """The case called `name`. Raises `BenchmarkSettingsError`."""
    known = cases(device, threads)
    if name in known:
        return known[name]
    raise BenchmarkSettingsError(f"case: expected one of {', '.join(known)}; got {name!r}")


def engines() -> tuple[str, ...]:
    """The encryption engines that run here, the default first."""
    from secagg.engines import available_engines, resolve_engine

    default = resolve_engine("auto")
    return (default, *(name for name in available_engines() if name != default))


def default_case() -> str:
    """The name of this project's default: the engine that "auto" chooses, with masks."""
    return f"secagg-{engines()[0]}-masked"


def _own(threads: int | None, device: str) -> list[Entry]:
    sums_on_device = Entry(
        f"secagg-{engines()[0]}-masked-sums-{device}",
        f"this project, engine {engines()[0]}, masked, ciphertexts added on {device}",
        "encrypted:EncryptedAverage",
        {"engine": engines()[0], "masking": True, "threads": threads, "sums_on": device},
        family="secagg",
        ours=True,
        longest=10**7,
    )
    in_memory = [
        Entry(
            f"secagg-{engine}-{'masked' if masking else 'unmasked'}",
            f"this project, engine {engine}, {'masked' if masking else 'masks off'}",
            "encrypted:EncryptedAverage",
            {"engine": engine, "masking": masking, "threads": threads},
            family="secagg",
            ours=True,
        )
        for engine in engines()
        for masking in (True, False)
    ]
    roles_on_device = [
        Entry(
            f"secagg-on-{device}-{'masked' if masking else 'unmasked'}",
            f"this project, clients and key holder on {device}, {'masked' if masking else 'masks off'}",
            "encrypted:EncryptedAverage",
            {"engine": engines()[0], "masking": masking, "threads": threads, "device": device},
            family="secagg",
            ours=True,
            asked_for=device == "cpu",
        )
        for masking in (True, False)
    ]
    return [*in_memory, *roles_on_device] if device == "cpu" else [sums_on_device, *in_memory, *roles_on_device]


def _stock() -> list[Entry]:
    return [
        Entry(
            f"tenseal-{name}",
            f"TenSEAL, {setting.label}",
            "stock_tenseal:StockAverage",
            {"setting": name},
            family="stock",
            slow=True,
            longest=10**6,
            most=64,
        )
        for name, setting in SETTINGS.items()
    ]


def _device(device: str) -> list[Entry]:
    """Sums on the device; on CUDA also with torch's calls alone, which is what one kernel is measured against."""
    return [
        Entry(
            f"ciphertext-sum-{device}{'-torch' if kernel == 'torch' else ''}-x{stacked}",
            f"ciphertext sum, torch on {device}{', no kernel' if kernel == 'torch' else ''}, {stacked} "
            f"contribution{'s' * (stacked > 1)} per pass",
            "device_sum:DeviceSum",
            {"device": device, "stacked": stacked, "kernel": kernel},
            family="device",
            ours=True,
            asked_for=stacked > MOST_STACKED or kernel == "torch",
            longest=2 * 10**7,
        )
        for kernel in (("auto", "torch") if device == "cuda" else ("auto",))
        for stacked in STACKS
    ]


def _rounds(device: str, threads: int | None) -> list[Entry]:
    entries = []
    for model, label in (("mlp", "fraud MLP"), ("resnet18", "ResNet-18")):
        for way, engine in (("plain", None), ("encrypted", "auto")):
            entries.append(
                Entry(
                    f"round-{model}-{way}-{device}",
                    f"whole round, {label} trained on {device}, {way}",
                    "rounds:WholeRound",
                    {"model": model, "engine": engine, "device": device, "threads": threads},
                    family="round",
                    ours=way == "encrypted",
                )
            )
        entries.append(
            Entry(
                f"round-{model}-on-{device}",
                f"whole round, {label} trained on {device}, encrypted, clients and key holder on {device}",
                "rounds:WholeRound",
                {"model": model, "engine": "auto", "device": device, "threads": threads, "roles_on_device": True},
                family="round",
                ours=True,
                asked_for=device == "cpu",
            )
        )
    return entries
