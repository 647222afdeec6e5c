"""The only module that builds a request to a provider: it checks what may leave and gives back typed answers.

The checks run in this order, and each of them can stop the request:

1. Policy: every value is of a column that a person has allowed, and leaves only in its released form.
2. Redaction: a released text that still holds a digit, an address, a rare word or a known name is refused,
   not repaired.
3. Cache: what was answered before is not asked again.

Checks 4 to 6 are in `fl.assist.openai_provider`, on the bytes that it sends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, cast

from pydantic import BaseModel, ValidationError

from fl.assist.answers import misfit
from fl.assist.cache import UNANSWERED, Cache, content_key
from fl.assist.errors import AnswerError, AnswerMalformed, CustomerListMissing, LeakRefused, NotSent
from fl.assist.provider import Item, MadeBy, Provider, Request, Task
from fl.assist.redact import Redactor
from fl.assist.release import Facts, Policy

Progress = Callable[[int], None]  # takes the number of finished items

ITEMS_PER_REQUEST = 20


@dataclass(frozen=True)
class ItemAnswer(Generic[Item]):
    """The answer to one item: a value, or the reason why there is none."""

    value: Item | None
    reason: str | None
    made_by: MadeBy


class Gateway:
    """Sends one bank's requests to a provider. A refused request raises, costs nothing and sends nothing."""

    def __init__(self, provider: Provider, policy: Policy, redactor: Redactor, cache: Cache | None) -> None:
        self._provider = provider
        self._policy = policy
        self._redactor = redactor
        self._cache = cache
        self._clean: set[str] = set()  # redacted texts in which no leak was found

    def ask(self, task: Task[Item], facts: Facts) -> tuple[list[Item], MadeBy]:
        """Ask one question about public facts. Returns all items of the answer, and their provider.

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
            raise AnswerMalformed(
                f"this was asked before and ended in {entry[UNANSWERED]}: to ask and pay again, add --ask-again"
            )
        items: list[Item] = getattr(_validated(task.answer, entry), task.items_field)
        return items, made_by

    def _asked_once(
        self, task: Task[Item], public: dict[str, Any], content: str
    ) -> tuple[dict[str, Any], AnswerError | None]:
        """The answer as JSON, or the entry to keep in its place and the error."""
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
        """Ask the same question about every record (raw values by column); equal records are asked about once.

        An item without an answer of the expected structure comes back with a reason. Raises `ColumnNotAllowed`,
        `LeakRefused`, `CustomerListMissing`, and every error that ends all requests. Answers until then are in the
        cache.
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
                "or give --no-customer-list. Nothing was sent"
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

        The items of a batch whose answer is unusable are asked again one by one, so that one hostile description cannot
        prevent the answers to the others.
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
        answered: list[Item] = getattr(answer, task.items_field)
        by_number = {cast(Any, item).item: item for item in answered}
        if len(answered) != len(items) or sorted(by_number) != list(range(len(items))):
            raise AnswerMalformed(
                f"expected one answer to each of {len(items)} items, got {len(answered)} for {len(by_number)} items"
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
    """Hash of everything that decides an answer, except the content."""
    structure = json.dumps(task.answer.model_json_schema(), sort_keys=True)
    return content_key(*made_by.as_json().values(), task.prompt.sha256, structure)


def _validated(model: type[BaseModel], entry: Mapping[str, Any]) -> BaseModel:
    try:
        return model.model_validate_json(json.dumps(entry))
    except ValidationError as fault:
        raise AnswerMalformed(misfit(fault)) from None


def _outcome(task: Task[Item], entry: dict[str, Any], made_by: MadeBy) -> ItemAnswer[Item]:
    if UNANSWERED in entry:
        return ItemAnswer(None, str(entry[UNANSWERED]), made_by)
    answer = _validated(task.answer, {task.items_field: [entry]})
    item: Item = getattr(answer, task.items_field)[0]
    return ItemAnswer(item, None, made_by)
