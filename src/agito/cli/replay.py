"""`agito replay`: a recorded attempt again, turn by turn, and where it differs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.text import Text

from agito.cli.episode import doubts, print_event, print_task, print_tokens, verdict_text
from agito.cli.exit_codes import work
from agito.cli.tables import counted, plain_table, print_table
from agito.cli.terminal import err, out
from agito.errors import Diverged, NotFound
from agito.record import PHASES, Recorded, RunDir, RunState, read_quarantined, read_trajectories
from agito.record.rundir import no_run
from agito.replays.episode import EpisodeReplay, replay_episode
from agito.replays.updates import replay_updates as replay_all
from agito.scheduling.log import replay
from agito.types import AttemptId, Turn

_LISTED = 20
_TOLD_EVERY = 5  # steps, where there is no terminal


def replay_attempt(run: Path, attempt: AttemptId, phase: str | None) -> None:
    """Raises `Diverged` after everything has been shown."""
    both = work(lambda: replay_episode(run, attempt, phase=phase))
    console = out()
    _print(console, both)
    if both.differences:
        raise Diverged(f"attempt {attempt} diverges first at {both.differences[0]}")


def replay_schedule(run: Path) -> None:
    """Raises `Diverged` at the first decision that differs, `NotFound` for a run without a log."""
    path = run / "schedule.jsonl"
    if not path.is_file():
        raise NotFound(
            f"{path}: not there; only the concurrent and the decoupled loop write one (--set "
            'pipeline.mode="decoupled")'
        )
    with path.open(encoding="utf-8") as lines:
        counts = replay(lines)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    out().print(f"identical  {told}", highlight=False)


def replay_updates(run: Path) -> None:
    """Raises `Diverged` at the first checkpoint whose weights come out otherwise."""
    console = err()
    with console.status("learning again from what was recorded") as status:

        def on_step(step: int) -> None:
            status.update(f"learning again from what was recorded: step {step}")
            if not console.is_terminal and step % _TOLD_EVERY == 0:
                console.print(f"step {step}", highlight=False)

        found = work(lambda: replay_all(run, on_step=on_step))
    if found.differs:
        raise Diverged(f"after {counted(found.steps, 'step')} the weights are not those of {found.differs}")
    out().print(
        f"identical  weights of {', '.join(found.checked) or 'no checkpoint'} after "
        f"{counted(found.steps, 'step')}",
        highlight=False,
    )


def parse_attempt(text: str) -> AttemptId:
    """Raises `NotFound` for what is no attempt's number."""
    try:
        return AttemptId.parse(text)
    except ValueError as error:
        raise NotFound(str(error)) from None


def list_attempts(run: Path, phase: str | None, step: int | None = None) -> None:
    """Some attempts of one phase: those of one step, the failed ones first. Where none is named: of the last,
    after the penalised ones of all steps.
    """
    directory = run / "trajectories"
    if phase is not None and phase not in PHASES:
        raise NotFound(f"phase {phase!r}: there is {', '.join(PHASES)}")
    files = sorted(directory.glob(f"{phase or 'after'}-*.parquet")) or (
        sorted(directory.glob("*.parquet")) if phase is None else []
    )
    if not files:
        raise NotFound(_nothing(run, phase))
    name = files[-1].stem.rpartition("-")[0]
    by_step = {
        int(path.stem.rpartition("-")[2]): path for path in files if path.stem.rpartition("-")[0] == name
    }
    if step is not None and step not in by_step:
        raise NotFound(f"{run}: step {step} of phase {name} is not recorded; there {_steps(by_step)}")
    chosen = by_step[max(by_step) if step is None else step]
    recorded = read_trajectories(chosen)
    earlier = [
        each
        for path in by_step.values()
        if step is None and path != chosen
        for each in read_quarantined(path)
    ]
    ordered = sorted(
        [*earlier, *recorded],
        key=lambda each: (
            not each.attempt.quarantine,
            each.attempt.verdict.reward >= 1,
            each.attempt.trajectory.attempt,
        ),
    )
    table = plain_table("attempt", "cell", "verdict", "calls", "task")
    for each in ordered[:_LISTED]:
        trajectory = each.attempt.trajectory
        table.add_row(
            Text(str(trajectory.attempt), "bold"),
            trajectory.task.cell,
            _verdict(each),
            str(len(trajectory.events)),
            trajectory.task.prompt[each.dialect][:40],
        )
    console = out()
    print_table(console, table)
    phase = recorded[0].phase if recorded else phase
    shown = (
        f"{len(ordered[:_LISTED])} of {counted(len(ordered), 'attempt')}, the failed ones first, of "
        f"{chosen.name}"
    )
    if len(by_step) > 1:
        shown += f"; there {_steps(by_step)}: --step N"
    console.print(
        Text(f"\n{shown}. Act one again: agito replay {quote(str(run))} ATTEMPT --phase {phase}", "dim"),
        highlight=False,
    )


def _nothing(run: Path, phase: str | None) -> str:
    """Why there is no attempt to list."""
    if RunDir.state(run) in (RunState.ABSENT, RunState.FOREIGN):
        return f"{run}: {no_run(run)}"
    there = ", ".join(name for name in PHASES if any((run / "trajectories").glob(f"{name}-*.parquet")))
    if not there:
        return f"{run}: no attempts recorded yet"
    return f"{run}: no attempts of phase {phase} recorded yet; there are those of {there}"


def _steps(recorded: Collection[int]) -> str:
    first, last = min(recorded), max(recorded)
    return f"are steps {first} to {last}" if len(recorded) > 1 else f"is step {first}"


def _verdict(each: Recorded) -> Text:
    return (
        Text("penalised", "yellow")
        if each.attempt.quarantine
        else verdict_text(each.attempt.verdict).split("  ")[0]
    )


def _print(console: Console, both: EpisodeReplay) -> None:
    recorded = both.recorded
    trajectory = recorded.attempt.trajectory
    console.print(
        Text.assemble(
            ("attempt ", "dim"),
            (str(trajectory.attempt), "bold"),
            (f" · {recorded.phase}, step {recorded.step}", "dim"),
        )
    )
    print_task(console, trajectory.task, recorded.dialect)
    _complain(console, both, "task")
    for number, turn in enumerate(trajectory.turns):
        console.print()
        console.print(Text(f"turn {number + 1}  {_about(recorded, turn)}", "dim"))
        _complain(console, both, f"turn {number}")
        start = _start(recorded, turn)
        tokens = next(segment for segment in trajectory.segments if segment.id == turn.segment).tokens
        print_tokens(
            console,
            recorded.pieces[start + turn.start : start + turn.stop],
            tokens.logprobs[turn.start : turn.stop],
        )
        for index in turn.calls:
            print_event(console, trajectory.events[index], trajectory.task.tools[0].name)
            _complain(console, both, f"event {index}")
    console.print()
    console.print(Text.assemble(("recorded  ", "dim"), verdict_text(recorded.attempt.verdict)))
    for line in doubts(recorded.attempt):
        console.print(Text.assemble("          ", line))
    console.print(Text.assemble(("again     ", "dim"), verdict_text(both.again.verdict)))
    for where in ("events", "end", "verdict"):
        _complain(console, both, where)
    if not both.differences:
        num_tokens = sum(len(segment.tokens) for segment in trajectory.segments)
        what = ", ".join(
            [
                counted(len(trajectory.turns), "turn"),
                counted(len(trajectory.events), "event"),
                counted(num_tokens, "token"),
                "the verdict",
            ]
        )
        console.print(Text.assemble(("identical ", "bold green"), what))


def _complain(console: Console, both: EpisodeReplay, where: str) -> None:
    for difference in both.differences:
        if difference.where == where:
            console.print(
                Text(f"  ✗ {difference.what} was {difference.recorded}\n    now {difference.again}", "red")
            )


def _start(recorded: Recorded, turn: Turn) -> int:
    """Of the turn's segment among all pieces."""
    start = 0
    for segment in recorded.attempt.trajectory.segments:
        if segment.id == turn.segment:
            break
        start += len(segment.tokens)
    return start


def _about(recorded: Recorded, turn: Turn) -> str:
    segment = next(each for each in recorded.attempt.trajectory.segments if each.id == turn.segment)
    tokens = segment.tokens
    version = tokens.version_at(turn.start) if turn.stop > turn.start else 0
    parts = [f"weights v{version}" if version else "scripted", counted(turn.stop - turn.start, "token")]
    if version:
        parts.append(f"log p {sum(tokens.logprobs[turn.start : turn.stop]):.2f}")
    stats = next((each for each in recorded.stats if each.segment == turn.segment), None)
    if stats is not None and stats.advantages is not None:
        parts.append(f"advantage {max(stats.advantages[turn.start : turn.stop], key=abs, default=0.0):+.2f}")
    return " · ".join(parts)
