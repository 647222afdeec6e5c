"""Every exception that `fl.assist` raises on purpose: one base class, and subclasses named for the fact.

No message contains text of a transaction, a prompt or an answer. The error body of a server may repeat what was sent,
so messages contain only its status and code.
"""

from __future__ import annotations

from fl.errors import FederationError


class AssistError(FederationError):
    """Base of all errors raised by `fl.assist`."""


class AssistNotInstalled(AssistError):
    """The openai SDK is not installed: install the extra `assist`."""


class ColumnNotAllowed(AssistError):
    """A column would be sent without a person's permission, or may never be sent."""


class CustomerListMissing(AssistError):
    """Free text would be sent without the bank's list of its customers."""


class LeakRefused(AssistError):
    """The request contains text that looks like an identifier. Nothing was sent."""


class NotSent(AssistError):
    """A dry run has shown the request and sent nothing."""


class SpendLimitReached(AssistError):
    """The next request could exceed the budget. It was not sent."""


class PriceMissing(AssistError):
    """A budget in money was given without prices per token."""


class LogError(AssistError):
    """The gateway's log is damaged or was rewritten."""


class PromptError(AssistError):
    """A prompt file is missing or malformed."""


class InsecureEndpoint(AssistError):
    """The endpoint is neither https nor on this machine."""


class CredentialsRefused(AssistError):
    """There is no API key, or the endpoint does not accept it."""


class RateLimited(AssistError):
    """The endpoint still answers 429 after the SDK's retries."""


class ProviderTimedOut(AssistError):
    """There was no answer within the timeout, after the SDK's retries."""


class ProviderUnreachable(AssistError):
    """There is no connection to the endpoint, or the connection broke."""


class ProviderFailed(AssistError):
    """The endpoint still answers 5xx after the SDK's retries."""


class RequestRejected(AssistError):
    """The endpoint refuses the request as such (4xx), or redirects it elsewhere."""


class AnswerError(AssistError):
    """Base of errors of one answer; another request may still succeed."""


class AnswerTruncated(AnswerError):
    """The answer ended at the output limit."""


class AnswerRefused(AnswerError):
    """The model declined to answer."""


class AnswerMalformed(AnswerError):
    """The answer is not JSON, does not fit its schema, or contains items that were not in the request."""


class AnswerUnexpected(AnswerError):
    """The answer holds something other than a message, such as a tool call. Nothing was called."""


class ScenarioError(AssistError):
    """A request for synthetic transactions, or its data, cannot be used as given."""


class ApprovalError(AssistError):
    """An approval file does not fit its candidates, or accepts a row that cannot be accepted."""


class ExampleError(AssistError):
    """A file of training examples is malformed."""


class FineTuningClosed(AssistError):
    """OpenAI takes no new self-serve fine-tuning jobs since 2027-01-06."""
