"""The only module that can send anything: the openai SDK behind a hook that checks, bounds and logs every attempt.

Checks 1 to 3 are in `fl.assist.gateway`, which builds the requests. These follow, each of which can stop an attempt:

4. Guard: the bytes that the SDK is about to send, prompt included, are searched for card numbers, IBANs, e-mail
   addresses, customer identifiers and full names, at every attempt.
5. Budget: the attempt's upper bound must fit.
6. Log: a line with hash and size is on disk before the first byte leaves.

They run in a hook of the HTTP client, below the SDK's retries, so that every attempt passes them. Redirects are not
followed, because the second host would get the body too. No tools are offered and none is called: an answer that is
anything but one message of the expected structure is refused.

This module is the only one that imports openai or httpx2, and it does so when a provider is made (a test reads all
sources for it). It prints nothing. The SDK's own loggers are set to warnings.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from fl.assist.account import Account, Usage
from fl.assist.answers import misfit
from fl.assist.bodies import body_of, refuse_completion, refuse_response
from fl.assist.deadline import WholeAttempt
from fl.assist.errors import (
    AnswerMalformed,
    AssistError,
    AssistNotInstalled,
    CredentialsRefused,
    FineTuningClosed,
    InsecureEndpoint,
    LeakRefused,
    NotSent,
    ProviderFailed,
    ProviderTimedOut,
    ProviderUnreachable,
    RateLimited,
    RequestRejected,
)
from fl.assist.prompts import Prompt
from fl.assist.provider import Api, MadeBy, Request

if TYPE_CHECKING:
    import httpx2
    import openai

Emit = Callable[[bytes], None]  # takes a body that would be sent

MOST_TOKENS = 10**12  # largest count of tokens that an answer may state
SELF_SERVE_ENDS = date(2027, 1, 6)  # OpenAI takes no new self-serve fine-tuning jobs from this day on
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class OpenAIProvider:
    """The openai SDK behind checks 4 to 6.

    `api`: "responses", or "chat" for servers that speak the Chat Completions interface. The endpoint is
    `base_url`, else `OPENAI_BASE_URL`, else OpenAI's; the key comes from `OPENAI_API_KEY`. `timeout_s` limits
    each whole attempt, up to the last byte of its answer. `max_retries` is the SDK's (429, 408, 409, 5xx, broken
    connections; it obeys Retry-After). `dry_run` gets the body of each request, which is then not sent.

    Raises `AssistNotInstalled`, `CredentialsRefused` and `InsecureEndpoint` when made.
    """

    leaves_machine = True

    def __init__(
        self,
        model: str,
        account: Account,
        *,
        api: Api = "responses",
        base_url: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        dry_run: Emit | None = None,
    ) -> None:
        self._openai = _sdk()
        self.model = model
        self.api = api
        self._account = account
        self._dry_run = dry_run
        self._stop: AssistError | None = None  # why the hook stopped an attempt
        self._attempt = 0
        self._outgoing = _Outgoing((), 0, lambda _: [])
        self._client = self._connect(base_url, timeout_s, max_retries)
        self.endpoint = _checked_host(str(self._client.base_url))

    def made_by(self, prompt: Prompt) -> MadeBy:
        return MadeBy("openai", self.model, f"{self.endpoint} ({self.api})", prompt.label)

    def complete(self, request: Request) -> BaseModel:
        """An instance of `request.answer`; see `Provider`."""
        about = (("model", self.model), ("endpoint", self.endpoint), ("prompt", request.prompt.label))
        self._outgoing = _Outgoing(about, request.max_output_tokens, request.guard)
        raw = self._guarded(lambda: self._send(request))
        body = body_of(raw.http_response.content)
        self._settle(body)
        (refuse_response if self.api == "responses" else refuse_completion)(body)
        return self._parsed(raw, request.answer)

    def fine_tune(self, examples: Path, *, epochs: int, guard: Callable[[str], list[str]], today: date) -> str:
        """Upload a file of examples and start a job; returns the job's id.

        The upper bound of its training tokens (bytes times `epochs`) counts against the budget. Raises
        `FineTuningClosed` at OpenAI from 2027-01-06 on.
        """
        if self.endpoint.endswith("openai.com") and today >= SELF_SERVE_ENDS:
            raise FineTuningClosed(
                f"OpenAI takes no new self-serve fine-tuning jobs since {SELF_SERVE_ENDS}: train the same file "
                "locally with: python -m demos assist finetune local FILE..."
            )
        content = examples.read_bytes()
        self._account.require_room(len(content), len(content) * epochs)
        about = (("model", self.model), ("endpoint", self.endpoint), ("purpose", "fine-tune upload"))
        self._outgoing = _Outgoing(about, 0, guard)
        files = self._client.files
        uploaded = self._guarded(lambda: files.create(file=("examples.jsonl", content), purpose="fine-tune"))
        self._account.settle(self._attempt, Usage(0, 0), status=200)
        about = (("model", self.model), ("endpoint", self.endpoint), ("purpose", "fine-tune job"))
        self._outgoing = _Outgoing(about, len(content) * epochs, guard)
        job = self._guarded(
            lambda: self._client.fine_tuning.jobs.create(
                model=self.model,
                training_file=uploaded.id,
                method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
            )
        )
        return str(job.id)  # the attempt stays at its bound, because the cost of the job is not known yet

    def fine_tuning_status(self, job: str) -> dict[str, Any]:
        """State of a job: id, status, model (None until it exists) and trained tokens."""
        about = (("model", self.model), ("endpoint", self.endpoint), ("purpose", "fine-tune status"))
        self._outgoing = _Outgoing(about, 0, lambda _: [])
        state = self._guarded(lambda: self._client.fine_tuning.jobs.retrieve(job))
        self._account.settle(self._attempt, Usage(0, 0), status=200)
        return {
            "job": str(state.id),
            "status": str(state.status),
            "fine_tuned_model": state.fine_tuned_model,
            "trained_tokens": state.trained_tokens,
        }

    def _connect(self, base_url: str | None, timeout_s: float, max_retries: int) -> openai.OpenAI:
        key = os.environ.get("OPENAI_API_KEY") or ("dry run" if self._dry_run else "")
        if not key:
            raise CredentialsRefused(
                "OPENAI_API_KEY is not set: set it for this provider, or use --provider offline, which needs none "
                "(a server of your own that needs no key accepts any value)"
            )
        logging.getLogger("openai").setLevel(logging.WARNING)  # at level debug the SDK would log what is sent
        import httpx2

        http = self._openai.DefaultHttpx2Client(
            follow_redirects=False,
            event_hooks={"request": [self._let_out], "response": [self._came_back]},
            transport=WholeAttempt(httpx2, lambda: self._openai.DefaultHttpx2Client(follow_redirects=False), timeout_s),
        )
        client: openai.OpenAI = self._openai.OpenAI(
            api_key=key, base_url=base_url, timeout=timeout_s, max_retries=max_retries, http_client=http
        )
        return client

    def _send(self, request: Request) -> Any:
        if self.api == "responses":
            return self._client.responses.with_raw_response.parse(
                model=self.model,
                instructions=request.instructions,
                input=request.content,
                text_format=request.answer,
                max_output_tokens=request.max_output_tokens,
                store=False,
            )
        return self._client.chat.completions.with_raw_response.parse(
            model=self.model,
            messages=[
                {"role": "system", "content": request.instructions},
                {"role": "user", "content": request.content},
            ],
            response_format=request.answer,
            max_tokens=request.max_output_tokens,
            store=False,
        )

    def _let_out(self, request: httpx2.Request) -> None:
        """Called for every attempt with its exact bytes, before any of them is sent."""
        body = request.read()
        try:
            if kinds := self._outgoing.guard(body.decode("utf-8", errors="replace")):
                raise LeakRefused(f"the request holds {' and '.join(kinds)}. Nothing was sent")
            if self._dry_run is not None:
                self._account.require_room(len(body), self._outgoing.max_output_tokens)
                self._dry_run(body)
                raise NotSent("a dry run sends nothing")
            self._attempt = self._account.send(body, self._outgoing.max_output_tokens, **dict(self._outgoing.about))
        except AssistError as fault:
            self._stop = fault
            # The SDK would wrap and retry any exception that is not its own base class.
            raise self._openai.OpenAIError("stopped by the gateway") from None

    def _came_back(self, response: httpx2.Response) -> None:
        if response.status_code >= 300:  # nothing was generated, so nothing is billed
            self._account.settle(self._attempt, Usage(0, 0), status=response.status_code)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """`call()`, with the SDK's exceptions translated. They hold bodies, so none of them is chained."""
        sdk, self._stop = self._openai, None
        try:
            return call()
        except sdk.OpenAIError as fault:
            stop: AssistError | None = self._stop
            if stop is None:
                stop = _translated(sdk, fault)
        raise stop

    def _settle(self, body: dict[str, Any]) -> None:
        """Replace the attempt's bound by the usage in its answer.

        When the usage is missing or malformed, the attempt stays at its bound, and the log says why.
        """
        usage = body.get("usage")
        names = ("input_tokens", "output_tokens") if self.api == "responses" else ("prompt_tokens", "completion_tokens")
        counts = [usage.get(name) for name in names] if isinstance(usage, dict) else []
        sound = [count for count in counts if type(count) is int and 0 <= count <= MOST_TOKENS]
        if len(sound) == 2:
            self._account.settle(self._attempt, Usage(sound[0], sound[1]), status=200)
        else:
            self._account.keep_bound(self._attempt, "the answer contains no valid usage")

    def _parsed(self, raw: Any, answer: type[BaseModel]) -> BaseModel:
        try:
            with warnings.catch_warnings():  # warnings of pydantic would print fields of the answer
                warnings.simplefilter("ignore")
                parsed = raw.parse()
        except ValidationError as fault:
            raise AnswerMalformed(misfit(fault)) from None
        except (ValueError, TypeError, AttributeError, self._openai.OpenAIError):
            raise AnswerMalformed("the response does not fit this interface: check --api") from None
        content = parsed.output_parsed if self.api == "responses" else parsed.choices[0].message.parsed
        if not isinstance(content, answer):
            raise AnswerMalformed("the response holds no answer")
        return content


@dataclass(frozen=True)
class _Outgoing:
    """What the hook must know about the current request."""

    about: tuple[tuple[str, str], ...]
    max_output_tokens: int
    guard: Callable[[str], list[str]]


def _sdk() -> Any:
    try:
        import openai
    except ImportError as fault:
        raise AssistNotInstalled(
            "the provider openai needs the openai SDK: run pip install -e '.[assist]' in a checkout of this project, "
            "or use --provider offline"
        ) from fault
    return openai


def _checked_host(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme != "https" and host not in LOOPBACK:
        raise InsecureEndpoint(
            f"expected an https endpoint or one on this machine, got {parts.scheme}://{host}: correct OPENAI_BASE_URL"
        )
    return host


def _translated(sdk: Any, fault: Exception) -> AssistError:
    """The SDK's exception as an `AssistError` with status and code, never the body, which may repeat what was sent."""
    retry = "; answers so far are kept: run the same command again"
    if isinstance(fault, sdk.APITimeoutError):
        return ProviderTimedOut(f"no answer within --timeout, also after retries{retry}")
    if isinstance(fault, sdk.APIConnectionError):
        return ProviderUnreachable(f"no connection to the endpoint, or it broke, also after retries{retry}")
    if not isinstance(fault, sdk.APIStatusError):
        return ProviderFailed(f"the SDK gave up: {type(fault).__name__}{retry}")
    status = f"status {fault.status_code}" + (f", code {fault.code}" if fault.code else "")
    if isinstance(fault, sdk.RateLimitError):
        wait = fault.response.headers.get("retry-after")
        return RateLimited(f"{status}, after retries{f', retry after {wait} s' if wait else ''}{retry}")
    if isinstance(fault, (sdk.AuthenticationError, sdk.PermissionDeniedError)):
        return CredentialsRefused(f"{status}: the endpoint does not accept OPENAI_API_KEY")
    if fault.status_code >= 500:
        return ProviderFailed(f"{status}, after retries{retry}")
    return RequestRejected(f"{status}: the endpoint rejects the request; check --model, --api and OPENAI_BASE_URL")
