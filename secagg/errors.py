"""Every error that ``secagg`` raises on purpose.

Two branches, after h11: a ``LocalError`` says that the caller misused this process's own role; a ``PeerError`` says
that bytes or a message from another party broke the protocol.  A failed call leaves the role's state unchanged.
Messages say what was expected, what was got and what to do; they never contain keys, seeds or plaintext.
"""

from __future__ import annotations


class SecAggError(Exception):
    """Base of every error of this package."""


class LocalError(SecAggError):
    """The calling side misused the interface."""


class PeerError(SecAggError):
    """Another party's message or its bytes broke the protocol."""


# --- local ----------------------------------------------------------------------------------------------------------


class PlanError(LocalError):
    """No round can be planned for these inputs; the message names the input to change."""


class RuleUnknown(PlanError):
    """A robust rule does not exist, or its parameters are missing or out of range."""


class RuleNeedsMoreClients(PlanError):
    """A robust rule cannot tell attackers from others among so few members."""


class GramMalformed(LocalError):
    """A matrix is not one of inner products: not square, not finite or not symmetric."""


class UpdateError(LocalError):
    """An update cannot be encoded."""


class UpdateLengthMismatch(UpdateError):
    """The update's length is not the plan's."""


class UpdateNotFinite(UpdateError):
    """The update holds NaN or infinity."""


class UpdateTypeUnsupported(UpdateError):
    """The update is not a one-dimensional float32 or float64 array."""


class WeightOutOfRange(LocalError):
    """A weight is not an integer in 1..plan.max_weight."""


class EngineUnavailable(LocalError):
    """The named encryption engine does not exist or cannot run here."""


class WrongState(LocalError):
    """The role is not in a state that allows this call."""


class KeySelfTestFailed(LocalError):
    """SEAL returned keys whose error or secret is outside what the plan's noise bound assumes."""


class IdentityError(LocalError):
    """An identity or its file cannot be used."""


class EnrolmentError(LocalError):
    """An enrolment list is inconsistent."""


class StepNotIncreasing(LocalError):
    """A step is not above the earlier ones: the steps of a session increase strictly."""


class StepJump(LocalError):
    """An offer's step is too far above the last step that the bank joined."""


class UpdateReused(LocalError):
    """This update, or its integers, entered a roster before; the sums of two rosters could be subtracted."""


class ModelRepeated(LocalError):
    """A roster with other members trains from a model of an earlier roster; their sums can be compared.

    The bank's setting `model_repeats` says how many such rosters it allows (`Client`).
    """


class ModelUnmoved(ModelRepeated):
    """As `ModelRepeated`; in addition, an earlier round from this model was released and did not change the model."""


class LedgerError(LocalError):
    """A ledger or journal is damaged, locked by another process, or of another owner."""


class ReleasePruned(LedgerError):
    """The release of this step was dropped from the ledger on purpose, to save space; its hash and signature stay."""


class LedgerLocked(LedgerError):
    """Another process has the ledger open."""


# --- bytes ----------------------------------------------------------------------------------------------------------


class MalformedMessage(PeerError):
    """The bytes are not a message of this protocol."""


class TruncatedMessage(MalformedMessage):
    """Fewer bytes than the message declares."""


class OversizedMessage(MalformedMessage):
    """More bytes than the message declares, or than any message of this plan may have."""


class UnsupportedVersion(MalformedMessage):
    """Another wire version."""


class DigestMismatch(MalformedMessage):
    """The SHA-256 digest at the end does not match: the bytes changed in transit."""


class BadSignature(PeerError):
    """A signature does not verify."""


class BadSeal(PeerError):
    """A sealed seed does not open, or a key agreement gave zero."""


class ResidueOutOfRange(PeerError):
    """A residue is not smaller than its prime."""


class TransparentCiphertext(PeerError):
    """A ciphertext whose second polynomial is zero: it would decrypt without any key."""


# --- protocol -------------------------------------------------------------------------------------------------------


class WrongRound(PeerError):
    """The message belongs to another round, step or session."""


class WrongPlan(PeerError):
    """The message was made for another plan, engine or masking setting."""


class WrongModel(PeerError):
    """The message names another model than this party's own."""


class WrongKey(PeerError):
    """The message was made for another public key, or the public key is malformed."""


class DuplicateClient(PeerError):
    """This client's message was already accepted."""


class UnknownClient(PeerError):
    """The sender is not a member of this roster."""


class QuorumNotMet(PeerError):
    """Fewer participants than the quorum."""


class RosterMismatch(PeerError):
    """The message names another roster than the one this party accepted."""


class HistoryMismatch(PeerError):
    """Two parties saw one step end in different ways, or saw different ledgers of one key holder."""


class RoundAlreadyReleased(PeerError):
    """This round, or this step, was already consumed: each has one decryption."""


class RuleRefused(PeerError):
    """The rule of a robust round lets too few members stay: the step is over, and nobody contributed."""


class LateOutlier(PeerError):
    """The second look found members out after they had contributed: the step is over. organisations: their names."""

    def __init__(self, organisations: tuple[str, ...]) -> None:
        super().__init__(f"{', '.join(organisations)}: left out by the second look; open the next step without them")
        self.organisations = organisations


class LeftOut(PeerError):
    """The verdict of a robust round leaves this client out: it contributes nothing in this step."""


class SumRefused(PeerError):
    """The key holder refuses to release this sum. It gives no reason, because a reason could help an attacker."""
