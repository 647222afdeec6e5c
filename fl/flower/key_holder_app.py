"""The key holder as a ClientApp: one more SuperNode, with its own machine, keys and ledger, and no training.

It runs from installed code (`resident.py`), never from what a SuperLink ships. Loads neither torch nor any model. It
answers the actions of the protocol and nothing else (`admission.py`).
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl.errors import FederationError
from fl.flower.admission import admitted, log_refused, refusal
from fl.flower.endpoint import Endpoint, endpoint_of, failed_before_it_had_an_endpoint
from fl.flower.errors import MessageRefused
from fl.flower.logs import RoleLog
from fl.flower.parties.key_holder import KeyHolderParty
from fl.flower.parties.party import Refusal
from fl.flower.settings import NO_REPORTS

app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Carry out one action of the workflow as the key holder."""
    try:
        admitted(message, NO_REPORTS)
    except MessageRefused as error:
        log_refused(RoleLog("key_holder", ""), message, error)
        return refusal(message, error)
    try:
        endpoint: Endpoint[KeyHolderParty] = endpoint_of(context, KeyHolderParty)
    except (Refusal, FederationError) as error:
        return failed_before_it_had_an_endpoint(message, error)
    return endpoint.answer(message, endpoint.party.answer)
