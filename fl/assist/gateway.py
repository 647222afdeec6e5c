"""The only module that can send anything: builds every request, checks it, sends it, and records its cost.

Order of checks, each of which stops the request:

1. Policy: every value is of a column that a person has allowed, and leaves only in its released form.
2. Redaction: a released text that still holds a digit, an address, a rare word or a known name is refused,
   not repaired.
3. Cache: what was answered before is not asked again.
4. Guard: the bytes that the SDK is about to put on the wire, prompt included, are searched for card numbers,
   IBANs, e-mail addresses, customer identifiers and full names, at every attempt.
5. Budget: the attempt's upper bound must fit.
6. Log: a line with hash and size is on disk before the first byte leaves.

4 to 6 happen in a hook of the HTTP client, under the SDK's retries: no attempt goes around them. Redirects are
not followed, because the second host would get the body too. No tools are offered and none is called: an
answer that is anything but one message of the asked structure is refused.

This module is the only one that imports openai or httpx2, and it does so when a provider of that kind is made
(a test reads all sources for it). Nothing here prints; the SDK's own loggers are kept at warnings.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from fl.assist.account import Account, Usage
from fl.assist.bodies import body_of, refuse_completion, refuse_response
from fl.assist.cache import UNANSWERED, Cache, content_key
from fl.assist.deadline import WholeAttempt
from fl.assist.errors import (
    AnswerError,
    AnswerMalformed,
    AssistError,
    AssistNotInstalled,
    CredentialsRefused,
    CustomerListMissing,
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
from fl.assist.provider import Api, Item, MadeBy, Provider, Request, Task
from fl.assist.redact import Redactor
from fl.assist.release import Facts, Policy

if TYPE_CHECKING:
    import httpx2
    import openai

Progress = Callable[[int], None]  # takes how many items are done
Emit = Callable[[bytes], None]  # takes a body that would be sent

ITEMS_PER_REQUEST = 20
MOST_TOKENS = 10**12  # that an answer may claim to have cost
SELF_SERVE_ENDS = date(2027, 1, 6)  # OpenAI takes no new self-serve fine-tuning jobs from this day on
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ItemAnswer(Generic[Item]):
    """What came of one item: a value, or the reason why there is none; never a guess."""

    value: Item | None
    reason: str | None
    made_by: MadeBy


class Gateway:
    """One bank's way to a provider. Refuses by raising; a refused request has cost and sent nothing."""

    def __init__(self, provider: Provider, policy: Policy, redactor: Redactor, cache: Cache | None) -> None:
        self._provider = provider
        self._policy = policy
        self._redactor = redactor
        self._cache = cache
        self._clean: set[str] = set()  # redacted texts in which no leak was found

    def ask(self, task: Task[Item], facts: Facts) -> tuple[list[Item], MadeBy]:
        """Ask one thing about public facts; all items of the answer, and who made them.

        Raises `LeakRefused` for a scenario that holds an identifier, and whatever the provider raises.
        """
        made_by = self._provider.made_by(task.prompt)
        public = facts.as_json()
        content = _json(public)
        if kinds := self._redactor.identifiers_in(content):
            raise LeakRefused(f"the request holds {' and '.join(kinds)}: reword the scenario. Nothing was sent")
        key = content_key(_base_key(made_by, task), content)
        entry = None if self._cache is None else self._cache.get(key)
        if entry is None:
            entry, fault = self._asked_once(task, public, content)
            if self._cache is not None:
                self._cache.put({key: entry})
            if fault is not None:
                raise fault
        if UNANSWERED in entry:
            raise AnswerMalformed(f"this was asked before and ended in {entry[UNANSWERED]}: --ask-again pays again")
        items: list[Item] = getattr(_validated(task.answer, entry), task.items_field)
        return items, made_by

    def _asked_once(
        self, task: Task[Item], public: dict[str, Any], content: str
    ) -> tuple[dict[str, Any], AnswerError | None]:
        """The answer as JSON, or what is to be remembered in its place and the error."""
        try:
            answer = self._complete(task, content, task.output_tokens * int(public["rows"]))
            for item in getattr(answer, task.items_field):
                task.check(item, public)
        except AnswerError as fault:
            return {UNANSWERED: type(fault).__name__}, fault
        return answer.model_dump(mode="json", by_alias=True), None

    def ask_each(
        self,
        task: Task[Item],
        records: Sequence[Mapping[str, object]],
        progress: Progress | None = None,
    ) -> list[ItemAnswer[Item]]:
        """Ask the same about every record (raw values by column); equal ones are asked about once.

        An item that the provider will not or cannot answer in the asked structure comes back with a reason.
        Raises `ColumnNotAllowed`, `LeakRefused`, `CustomerListMissing`, and whatever ends all requests; what was
        answered until then is in the cache.
        """
        made_by = self._provider.made_by(task.prompt)
        released = [self._released(record) for record in records]
        base = _base_key(made_by, task)
        keys = [content_key(base, _json(item)) for item in released]
        unique = dict(zip(keys, released, strict=True))
        entries = {key: entry for key in unique if self._cache and (entry := self._cache.get(key)) is not None}
        missing = [key for key in unique if key not in entries]
        for start in range(0, len(missing), ITEMS_PER_REQUEST):
            part = missing[start : start + ITEMS_PER_REQUEST]
            entries |= self._asked(task, {key: unique[key] for key in part})
            if progress is not None:
                progress(min(start + ITEMS_PER_REQUEST, len(missing)))
        outcomes = {key: _outcome(task, entries[key], made_by) for key in unique}
        return [outcomes[key] for key in keys]

    def _released(self, record: Mapping[str, object]) -> dict[str, str]:
        item = self._policy.release(record, self._redactor)
        texts = [column.column for column in self._policy.schema.text if column.column in item]
        if texts and self._provider.leaves_machine and not self._redactor.has_customer_list:
            raise CustomerListMissing(
                f"{texts[0]!r} is free text: give the bank's list of customer names with --customer-list FILE, "
                "or say --no-customer-list. Nothing was sent"
            )
        for name in texts:
            self._refuse_leaks(name, item[name])
        return item

    def _refuse_leaks(self, name: str, redacted: str) -> None:
        if redacted in self._clean:
            return
        if kinds := self._redactor.leaks(redacted):
            raise LeakRefused(f"a redacted {name!r} still holds {' and '.join(kinds)}. Nothing was sent")
        self._clean.add(redacted)

    def _asked(self, task: Task[Item], items: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
        """Answers to `items` by key, as JSON.

        A batch whose answer is unusable is asked again one by one, so that one hostile description cannot cost the
        others their answers.
        """
        batch = content_key("batch", *items)
        remembered = self._cache.get(batch) if self._cache and len(items) > 1 else None
        reason = "" if remembered is None else str(remembered[UNANSWERED])
        if not reason:
            try:
                entries = self._batch(task, items)
            except NotSent:
                return {key: {UNANSWERED: "NotSent"} for key in items}
            except AnswerError as fault:
                reason = type(fault).__name__
                entries = {batch if len(items) > 1 else next(iter(items)): {UNANSWERED: reason}}
            if self._cache is not None:
                self._cache.put(entries)
        if not reason or len(items) == 1:
            return entries
        entries = {}
        for key, item in items.items():
            known = self._cache.get(key) if self._cache else None
            entries |= {key: known} if known is not None else self._asked(task, {key: item})
        return entries

    def _batch(self, task: Task[Item], items: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
        numbered = [{"item": number, **item} for number, item in enumerate(items.values())]
        answer = self._complete(task, _json({"items": numbered}), task.output_tokens * len(items))
        found: list[Item] = getattr(answer, task.items_field)
        by_number = {cast(Any, item).item: item for item in found}
        if len(found) != len(items) or sorted(by_number) != list(range(len(items))):
            raise AnswerMalformed(
                f"expected one answer to each of {len(items)} items, got {len(found)} for {len(by_number)} items"
            )
        for number, question in enumerate(items.values()):
            task.check(by_number[number], dict(question))
        return {key: by_number[n].model_dump(mode="json", by_alias=True) for n, key in enumerate(items)}

    def _complete(self, task: Task[Item], content: str, max_output_tokens: int) -> BaseModel:
        request = Request(task.prompt, content, task.answer, max_output_tokens, self._redactor.identifiers_in)
        answer = self._provider.complete(request)
        if type(answer) is not task.answer:
            raise AnswerMalformed(f"expected {task.answer.__name__}, got {type(answer).__name__}")
        return answer


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _base_key(made_by: MadeBy, task: Task[Item]) -> str:
    """Everything but the content that decides an answer."""
    structure = json.dumps(task.answer.model_json_schema(), sort_keys=True)
    return content_key(*made_by.as_json().values(), task.prompt.sha256, structure)


def _validated(model: type[BaseModel], entry: Mapping[str, Any]) -> BaseModel:
    try:
        return model.model_validate_json(json.dumps(entry))
    except ValidationError as fault:
        raise AnswerMalformed(_where(fault)) from None


def _outcome(task: Task[Item], entry: dict[str, Any], made_by: MadeBy) -> ItemAnswer[Item]:
    if UNANSWERED in entry:
        return ItemAnswer(None, str(entry[UNANSWERED]), made_by)
    answer = _validated(task.answer, {task.items_field: [entry]})
    item: Item = getattr(answer, task.items_field)[0]
    return ItemAnswer(item, None, made_by)


def _where(fault: ValidationError) -> str:
    """What is wrong and where, without the value."""
    problems = {f"{'.'.join(str(p) for p in e['loc']) or 'answer'}: {e['type']}" for e in fault.errors()}
    return f"the answer does not fit its structure ({'; '.join(sorted(problems)[:5])})"


class OpenAIProvider:
    """The openai SDK behind checks 4 to 6.

    `api`: "responses", or "chat" for servers that speak the Chat Completions interface. The endpoint is
    `base_url`, else `OPENAI_BASE_URL`, else OpenAI's; the key comes from `OPENAI_API_KEY`. `timeout_s` counts
    for each attempt as a whole, to the last byte of its answer; `max_retries` is the SDK's (429, 408, 409, 5xx, broken
    connections; Retry-After honoured).
    `dry_run` gets the body of each request, which is then not sent.

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
        self._stop: AssistError | None = None  # why the hook let an attempt not out
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
        return str(job.id)  # its attempt stays at its bound: the job's cost is not known yet

    def fine_tuning_status(self, job: str) -> dict[str, Any]:
        """State of a job: id, status, model (None until it is there) and trained tokens."""
        about = (("model", self.model), ("endpoint", self.endpoint), ("purpose", "fine-tune status"))
        self._outgoing = _Outgoing(about, 0, lambda _: [])
        found = self._guarded(lambda: self._client.fine_tuning.jobs.retrieve(job))
        self._account.settle(self._attempt, Usage(0, 0), status=200)
        return {
            "job": str(found.id),
            "status": str(found.status),
            "fine_tuned_model": found.fine_tuned_model,
            "trained_tokens": found.trained_tokens,
        }

    def _connect(self, base_url: str | None, timeout_s: float, max_retries: int) -> openai.OpenAI:
        key = os.environ.get("OPENAI_API_KEY") or ("dry run" if self._dry_run else "")
        if not key:
            raise CredentialsRefused(
                "OPENAI_API_KEY is not set: set it for this provider, or use --provider offline, which needs none "
                "(a server of your own that asks for no key takes any value)"
            )
        logging.getLogger("openai").setLevel(logging.WARNING)  # at debug the SDK would log what is sent
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
        """Called for every attempt, with the very bytes, before any of them is sent."""
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
            # Anything but its own base would be wrapped and retried by the SDK.
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

        Without one, or with one that is none, the answer is kept all the same, the attempt stays at its bound, and the
        log says why.
        """
        usage = body.get("usage")
        names = ("input_tokens", "output_tokens") if self.api == "responses" else ("prompt_tokens", "completion_tokens")
        counts = [usage.get(name) for name in names] if isinstance(usage, dict) else []
        sound = [count for count in counts if type(count) is int and 0 <= count <= MOST_TOKENS]
        if len(sound) == 2:
            self._account.settle(self._attempt, Usage(sound[0], sound[1]), status=200)
        else:
            self._account.keep_bound(self._attempt, "the answer names no usage that can be read")

    def _parsed(self, raw: Any, answer: type[BaseModel]) -> BaseModel:
        try:
            with warnings.catch_warnings():  # pydantic's would print fields of the answer
                warnings.simplefilter("ignore")
                parsed = raw.parse()
        except ValidationError as fault:
            raise AnswerMalformed(_where(fault)) from None
        except (ValueError, TypeError, AttributeError, self._openai.OpenAIError):
            raise AnswerMalformed("the response is not one of this interface") from None
        found = parsed.output_parsed if self.api == "responses" else parsed.choices[0].message.parsed
        if not isinstance(found, answer):
            raise AnswerMalformed("the response holds no answer")
        return found


@dataclass(frozen=True)
class _Outgoing:
    """What the hook must know of the request that is under way."""

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
    """The SDK's exception as ours: status and code, never the body, which may echo what was sent."""
    retry = "; what was answered so far is kept: run the same command again"
    if isinstance(fault, sdk.APITimeoutError):
        return ProviderTimedOut(f"no answer in time, after retries (--timeout){retry}")
    if isinstance(fault, sdk.APIConnectionError):
        return ProviderUnreachable(f"no connection to the endpoint, or it broke, after retries{retry}")
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
    return RequestRejected(f"{status}: the endpoint does not take this; check --model, --api and OPENAI_BASE_URL")
