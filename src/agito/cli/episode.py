"""How an episode looks on a terminal. What a policy or a world wrote is shown, never obeyed: control
characters become pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agito.cli.tables import counted
from agito.cli.terminal import show
from agito.types import Attempt, Budget, Dialect, Event, Task, TerminationReason, Verdict

_MARGIN = 2
_SHELL = "sh"


def shown_text(text: str) -> str:
    """Without control characters but newline and tab."""
    return "".join(_picture(char) for char in text)


def print_task(console: Console, task: Task, dialect: Dialect, *notes: str) -> None:
    limits = task.limits
    tags = "".join(f" {tag}" for tag in task.tags)
    room = ", ".join(
        (counted(limits.turns, "turn"), counted(limits.calls, "call"), counted(limits.tokens, "token"))
    )
    about = f"{task.id} · {task.cell}{tags} · {room}"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(Text("task", "dim"), Text(shown_text(task.prompt[dialect]), "bold"))
    for note in (about, *notes):
        table.add_row("", Text(note, "dim"))
    show(console, table)


def print_tokens(console: Console, pieces: Sequence[str], logprobs: Sequence[float]) -> None:
    """Every token above its log-probability; the less probable, the redder."""
    top, bottom = Text(" " * _MARGIN), Text(" " * _MARGIN)
    for piece, logprob in zip(pieces, logprobs, strict=True):
        word = _visible(piece)
        number = f"{logprob:.2f}" if math.isfinite(logprob) else "–"
        width = max(len(word), len(number)) + 1
        if len(top) + width > console.width and len(top) > _MARGIN:
            console.print(top, bottom, sep="\n")
            top, bottom = Text(" " * _MARGIN), Text(" " * _MARGIN)
        top.append(word.ljust(width), _colour(logprob))
        bottom.append(number.ljust(width), "dim")
    console.print(top, bottom, sep="\n")


def print_event(console: Console, event: Event, first_tool: str, *, with_call: bool = True) -> None:
    """The call, as the compact dialect puts it, and what came of it."""
    if with_call:
        call = event.call
        said = " ".join(map(str, call.arguments.values()))
        is_shell = call.tool == first_tool == _SHELL  # commands stand as in a shell, without the tool's name
        words = call.raw if call.problem else said if is_shell else f"{call.tool} {said}".rstrip()
        console.print(Text.assemble(("  $ ", "cyan"), (shown_text(words).replace("\n", "↵"), "bold cyan")))
    for line in shown_text(event.text).rstrip("\n").split("\n") if event.text.strip() else []:
        console.print(Text.assemble(("  │ ", "dim"), line))
    notes = [f"exit {event.exit_code}"] if event.exit_code else []
    notes += [f"fault: {event.fault}"] if event.fault else []
    notes += [f"{counted(event.truncated_bytes, 'byte')} not shown"] if event.truncated_bytes else []
    if notes:
        console.print(Text(f"  └ {' · '.join(notes)}", "yellow"))


def budget_text(left: Budget | None) -> str:
    return (
        f"{counted(left.turns, 'turn')}, {counted(left.calls, 'call')}, {counted(left.tokens, 'token')} left"
        if left
        else ""
    )


def verdict_text(verdict: Verdict) -> Text:
    if math.isnan(verdict.reward):
        return Text.assemble(("void", "bold yellow"), f"  {shown_text(verdict.evidence)}")
    word, style = ("success", "bold green") if verdict.reward >= 1 else ("failure", "bold red")
    return Text.assemble(
        (word, style), f"  reward {verdict.reward:g}  ", (shown_text(verdict.evidence), "dim")
    )


def doubts(attempt: Attempt) -> list[Text]:
    """What speaks against the reward, a line each."""
    lines = (
        [Text(f"penalised  {shown_text(attempt.quarantine)}", "bold yellow")] if attempt.quarantine else []
    )
    lines += [
        Text(f"{'proof' if flag.is_proof else 'sign'}  {flag.kind}  {shown_text(flag.detail)}", "yellow")
        for flag in attempt.verdict.flags
    ]
    if attempt.gold is not None:
        lines.append(Text.assemble(("gold  ", "dim"), verdict_text(attempt.gold)))
    return lines


def print_verdict(console: Console, attempt: Attempt) -> None:
    trajectory = attempt.trajectory
    console.print()
    console.print(Text.assemble(("verdict  ", "dim"), verdict_text(attempt.verdict)))
    for line in doubts(attempt):
        console.print(Text.assemble("         ", line))
    given_up = trajectory.end is TerminationReason.ABANDONED
    why = ("given up" if given_up else f"ended by {trajectory.end}") + (
        f", fault: {trajectory.fault} {shown_text(trajectory.detail)}" if trajectory.fault else ""
    )
    sampled = f", {counted(trajectory.num_sampled, 'token')} sampled" if trajectory.num_sampled else ""
    console.print(Text(f"         {why} after {counted(len(trajectory.events), 'call')}{sampled}", "dim"))


def _picture(char: str) -> str:
    code = ord(char)
    if char in "\n\t":
        return char
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "\ufffd" if 0x80 <= code < 0xA0 else char


def _visible(piece: str) -> str:
    return "".join({" ": "·", "\n": "↵", "\t": "⇥"}.get(char) or _picture(char) for char in piece) or "∅"


def _colour(logprob: float) -> str:
    if not math.isfinite(logprob):
        return "dim"
    return "default" if logprob > -0.1 else "yellow" if logprob > -1 else "red"
