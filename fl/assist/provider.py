"""The protocol of providers, which answer requests, and the values that they exchange with the gateway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

from fl.assist.prompts import Prompt

Api = Literal["responses", "chat"]
Item = TypeVar("Item", bound=BaseModel)


@dataclass(frozen=True)
class MadeBy:
    """The origin of an answer. Every output that uses the answer contains it."""

    provider: Literal["offline", "openai"]
    model: str
    endpoint: str  # host name; "none" where nothing is sent
    prompt: str  # name, version and hash of the prompt file

    @property
    def note(self) -> str:
        """A sentence for readers about the origin of the figures."""
        if self.provider == "offline":
            return "plain rules on this machine, no language model: these figures say nothing about one"
        return f"language model {self.model} at {self.endpoint}"

    def as_json(self) -> dict[str, str]:
        return {
            "provider": self.provider,
            "model": self.model,
            "endpoint": self.endpoint,
            "prompt": self.prompt,
            "note": self.note,
        }


@dataclass(frozen=True)
class Task(Generic[Item]):
    """A kind of request. `answer`: the model of a whole answer, with its items in the field `items_field`.

    `check` raises `AnswerMalformed` for an item that fits its model and does not fit its question.
    """

    prompt: Prompt
    answer: type[BaseModel]
    items_field: str
    output_tokens: int  # most tokens of one item
    check: Callable[[Item, dict[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """A request to a provider. `content`: JSON with everything that varies. `instructions`: the text of the prompt.

    `guard`: names the kinds of identifiers in a text. The request is not sent when it finds any in the bytes.
    """

    prompt: Prompt
    content: str = field(repr=False)
    answer: type[BaseModel]
    max_output_tokens: int
    guard: Callable[[str], list[str]] = field(repr=False)

    @property
    def instructions(self) -> str:
        return self.prompt.text


class Provider(Protocol):
    """A source of answers."""

    @property
    def leaves_machine(self) -> bool:
        """Whether a request crosses a network interface of this process."""

    def made_by(self, prompt: Prompt) -> MadeBy:
        """What to record with an answer to this prompt."""

    def complete(self, request: Request) -> BaseModel:
        """An instance of `request.answer`.

        Raises `AnswerError` when this answer is unusable, another `AssistError` when the provider cannot answer at all.
        """
