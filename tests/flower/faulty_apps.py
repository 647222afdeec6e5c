"""ClientApps for real processes that fail on request: a file in the party's folder says what to do in which round.

faults.json: {"2": {"join": "hang"}, ...}, round -> action -> fault.
    hang      write the marker <folder>/hanging and wait for the end: the test kills the process there, as a power cut
    slow      wait for the file <folder>/go-on, then do what was asked
    garbage   answer with bytes that are no message
    replay    answer with the contribution recorded in the first round
    hang-done do what was asked, then hang before answering
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fl.flower import key_holder_app
from fl.flower.mod import SecAggMod
from fl.flower.models import FlatModel
from fl.flower.settings import load_settings, party_file
from fl.flower.transport import Call, action_of, from_records, to_records

_LONGEST_S = 600.0  # no process waits longer than this for the test


def fault_of(context: Context, message: Message) -> tuple[str, Path]:
    """What this party shall do wrong with this message, if anything."""
    folder = party_file(context).parent
    action, asked = action_of(message.content), folder / "faults.json"
    if action is None or not asked.exists():
        return "", folder
    done = folder / "model.npz"
    number = FlatModel.from_bytes(done.read_bytes())[1] + 1 if done.exists() else 1
    faults = json.loads(asked.read_text())
    named = faults.get(str(number), {}).pop(action, "")
    asked.write_text(json.dumps(faults))  # once each
    return named, folder


def hang(folder: Path) -> None:
    (folder / "hanging").touch()
    time.sleep(_LONGEST_S)


def wait_to_go_on(folder: Path) -> None:
    deadline = time.monotonic() + _LONGEST_S
    while not (folder / "go-on").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def faulty(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod before the secagg mod."""
    fault, folder = fault_of(context, message)
    if fault == "hang":
        hang(folder)
    if fault == "slow":
        wait_to_go_on(folder)
    answer = call_next(message, context)
    if fault == "hang-done":
        hang(folder)
    if action_of(message.content) == "contribute":
        call = from_records(answer.content)
        recorded = folder / "recorded"  # the first contribution that this party ever sent
        if "contribution" in call.wires and not recorded.exists():
            recorded.write_bytes(call.wires["contribution"])
        if fault in ("garbage", "replay"):
            sent = recorded.read_bytes() if fault == "replay" else b"garbage" * 1_000
            answer = Message(to_records(Call(call.fields, {"contribution": sent}), "contribute"), reply_to=message)
    return answer


def _length(context: Context) -> int:
    return int(load_settings(party_file(context)).app["length"])


def _initial(context: Context) -> ArrayRecord:
    return ArrayRecord([np.zeros(_length(context), dtype=np.float32)])


app = ClientApp(mods=[faulty, SecAggMod(_initial)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Adds an update that is a function of bank, round and attempt, and leaves a copy of it in the party's folder."""
    settings, config = load_settings(party_file(context)), message.content.config_records["config"]
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    rng = np.random.default_rng([settings.app["number"], config["server-round"], config["attempt"]])
    update = rng.uniform(-0.9, 0.9, weights.size).astype(np.float32)
    np.save(settings.folder / f"update-{config['server-round']}.npy", update)
    arrays, metrics = ArrayRecord([weights + update]), MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


key_holder = ClientApp()


@key_holder.train()
def answer(message: Message, context: Context) -> Message:
    """The key holder, which hangs after its work where it is told to."""
    asked = party_file(context).parent / "faults.json"
    faults = json.loads(asked.read_text()) if asked.exists() else {}
    action = action_of(message.content) or ""
    if faults.pop(action, "") == "hang-done":
        asked.write_text(json.dumps(faults))
        key_holder_app.answer(message, context)
        hang(asked.parent)
    return key_holder_app.answer(message, context)
