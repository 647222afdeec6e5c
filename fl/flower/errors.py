"""Every error that the Flower app raises on purpose; refusals by a role of `secagg` keep their own names."""

from __future__ import annotations

from collections.abc import Collection

from fl.errors import FederationError


class FlowerError(FederationError):
    """Base of all errors of the Flower app."""


class SettingsError(FlowerError):
    """A party's settings cannot be read, or do not fit the role that uses them."""


class TransferError(FlowerError):
    """A Flower message does not carry what its action needs, or its parts do not fit together."""


class MessageRefused(FlowerError):
    """A Flower message is neither of this protocol nor of a type that the party's operator lets through."""


class ReplyRefused(FlowerError):
    """An app's answer holds something that may not leave. withheld: its description, only for this party's log."""

    def __init__(self, message: str, withheld: str = "") -> None:
        super().__init__(message)
        self.withheld = withheld


class AppFailed(FlowerError):
    """The application behind a party failed. Only that party's log has its error text."""


class RoundStateLost(FlowerError):
    """This process does not hold the round that the message belongs to; its secrets never leave memory."""


class ModelMismatch(FlowerError):
    """A model is not the one that this party holds, or cannot be flattened into one vector."""


class RequestRefused(FlowerError):
    """A request is not signed by the enrolled aggregator, or is for another action or step."""


class RoundStillOpen(FlowerError):
    """A bank is asked to change its model while a round that it is in could still be released."""


class ReleaseDiffers(FlowerError):
    """A release contradicts what this bank's journal holds about its step."""


class BudgetSpent(FlowerError):
    """A bank has no budget left for another round of a private run; the rounds before it stand."""


class DraftLost(FlowerError):
    """The noised counts that a bank paid for are not on its disk, and nobody draws twice by one plan."""


class PrivateRunEnded(FlowerError):
    """All rounds of a private run's plan were played."""


class TreesGrown(FlowerError):
    """All sums of a run of trees were made."""


class TreeSumRefused(FlowerError):
    """A released sum cannot be one of the members' histograms: a bank contributed wrong integers."""


class PartnersDiffer(FlowerError):
    """A sum of trees is asked for among other banks than those of this bank's earlier trees."""


class PartiesMissing(FlowerError):
    """Key holder or banks did not appear in time."""


class PartyFailed(FlowerError):
    """A party answered with an error or not at all. The message names the party and its answer."""


class RoundLost(FlowerError):
    """An attempt at a round ended. Another may follow, without those that are blamed. blamed: organisations."""

    def __init__(self, message: str, blamed: Collection[str] = ()) -> None:
        super().__init__(message)
        self.blamed = frozenset(blamed)


class RoundFailed(FlowerError):
    """A round could not be finished in the attempts it was given."""


class ModelsDiverged(FlowerError):
    """After a round the banks do not hold the same model."""


class NetworkError(FlowerError):
    """A process of a local network did not start, or died."""


class RunFailed(FlowerError):
    """A run on a local network ended without a result, or not in time."""
