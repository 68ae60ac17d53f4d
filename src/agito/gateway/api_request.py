"""What a client asks for and what it is told, whichever API it speaks; and a refusal, with the status that
its SDK expects.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from agito.render.messages import Message, Said
from agito.types import Effort, Thinking, ToolSpec

AUTO, NEVER, REQUIRED = "auto", "none", "required"  # beside the name of a tool
MOST_CHOICES = 16


class Refused(Exception):
    """A request that is not served. `may_retry` False tells an SDK not to ask again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        may_retry: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.may_retry = (
            status,
            message,
            code,
            param,
            may_retry,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. What is None was left to the server."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    choice: str = AUTO  # AUTO, NEVER, REQUIRED, or the tool that must be called
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_choices: int = 1
    thinking: Thinking | None = None  # None: nothing is said of it
    is_parallel: bool = True  # more than one call in a turn
    streams: bool = False
    wants_logprobs: bool = False
    wants_usage: bool = False  # also at the end of a stream
    session: str = ""  # by which a client tells its agents apart
    name: str = ""  # of the answer, as the client is told it

    @property
    def effort(self) -> Effort:
        return self.thinking.effort if self.thinking else Effort.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One choice."""

    said: Said  # its calls carry ids
    finish: str  # stop, length, tool_calls
    stop: str | None  # the stop sequence that ended it
    ids: array[int]  # 'i'; sampled, those that only the policy sees included
    logprobs: array[float]  # 'f'
    num_prompt: int
    num_kept: int  # of the prompt: on the row already
    num_thinking: int
