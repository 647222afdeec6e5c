"""What answers a request: the protocol of providers, and the values that pass between them and the gateway."""

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
    """Who made a thing; stands in every output that holds the thing."""

    provider: Literal["offline", "openai"]
    model: str
    endpoint: str  # host; "none" where nothing is sent
    prompt: str  # name, version and hash of the prompt file

    @property
    def note(self) -> str:
        """What a reader must know about figures made this way."""
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

    `check` raises `AnswerMalformed` for an item that its model admits and its question does not.
    """

    prompt: Prompt
    answer: type[BaseModel]
    items_field: str
    output_tokens: int  # most that one item may take
    check: Callable[[Item, dict[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """What a provider is asked. `content`: JSON, everything that varies; `instructions`: the prompt's text.

    `guard`: names the kinds of identifier in a text; whatever it finds in the bytes to be sent stops them.
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
    """One way to get answers."""

    @property
    def leaves_machine(self) -> bool:
        """Whether a request crosses a network interface of this process."""

    def made_by(self, prompt: Prompt) -> MadeBy:
        """What to record with an answer to this prompt."""

    def complete(self, request: Request) -> BaseModel:
        """An instance of `request.answer`.

        Raises `AnswerError` when there is none, another `AssistError` when no answer can be had at all.
        """
