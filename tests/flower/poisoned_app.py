"""The app of a bank whose operator poisons the model, with `sign-flip` of `fl.rounds.attackers`.

[app]
poison = "sign-flip"       # in addition to what fl.flower.client_app reads
"""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl.flower import client_app
from fl.flower.settings import load_settings, party_file
from fl.rounds.attackers import SIGN_FLIP

app = ClientApp(mods=[client_app.app_mod])
app.evaluate()(client_app.evaluate)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of honest training; a poisoner sends its difference turned round and lengthened."""
    before = message.content.array_records["arrays"].to_torch_state_dict()
    reply = client_app.train(message, context)
    if load_settings(party_file(context)).app.get("poison") != "sign-flip":
        return reply
    after = reply.content.array_records["arrays"].to_torch_state_dict()
    forged = {name: value + SIGN_FLIP * (after[name] - value) for name, value in before.items()}
    metrics = reply.content.metric_records["metrics"]
    return Message(RecordDict({"arrays": ArrayRecord(forged), "metrics": metrics}), reply_to=message)
