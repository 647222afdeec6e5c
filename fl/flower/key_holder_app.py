"""The key holder as a ClientApp: one more SuperNode, with its own machine, keys and ledger, and no training.

It runs from installed code (`resident.py`), never from what a SuperLink ships. Loads neither torch nor any model.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl.errors import FederationError
from fl.flower.endpoint import Endpoint, endpoint_of, failed_before_it_had_an_endpoint
from fl.flower.errors import TransferError
from fl.flower.parties.key_holder import KeyHolderParty
from fl.flower.parties.party import Refusal
from fl.flower.transport import action_of

app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Carry out one action of the workflow as the key holder."""
    try:
        if action_of(message.content) is None:
            raise TransferError("the key holder trains nothing: leave its node out of ordinary rounds")
        endpoint: Endpoint[KeyHolderParty] = endpoint_of(context, KeyHolderParty)
    except (Refusal, FederationError) as error:
        return failed_before_it_had_an_endpoint(message, error)
    return endpoint.answer(message, endpoint.party.answer)
