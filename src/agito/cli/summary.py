"""What a run came to, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from rich.table import Table
from rich.text import Text

from agito.cli.episode import shown_text
from agito.cli.tables import counted, plain_table, print_table
from agito.cli.terminal import out, show
from agito.record import Rate, Summary

_PHASES = ("tokenizer", "sft", "before", "rl", "after", "structural", "baselines")


def rate_text(rate: Rate | None, style: str = "") -> Text:
    """`0.96 [0.94, 0.97]`; a dash when nothing was scored."""
    if rate is None or not rate.num:
        return Text("–", "dim")
    return Text.assemble((f"{rate.success:.2f}", style), (f" [{rate.low:.2f}, {rate.high:.2f}]", "dim"))


def tier_text(tier: str) -> str:
    """Of the sandboxes; an environment that has some says which in `isolation_tier`."""
    return "not told by the environment (isolation_tier)" if tier == "unknown" else tier


def cause_lines(causes: Mapping[str, int]) -> list[str]:
    """Why there was no verdict, the commonest first; nothing in it can move a cursor."""
    return [f"void {num} × {shown_text(cause)}" for cause, num in causes.items()]


def print_summary(summary: Summary, path: Path) -> None:
    console = out()
    console.print()
    print_table(console, _outcome(summary))
    console.print()
    if summary.baselines:
        print_table(console, _baselines(summary))
        console.print()
    show(console, _facts(summary, path))


def _outcome(summary: Summary) -> Table:
    table = plain_table("success on held-out tasks, 95 %", "before", "", "after", "tasks")
    table.add_row(
        Text("all", "bold"),
        rate_text(summary.before, "bold"),
        "→",
        rate_text(summary.after, "bold green"),
        str(summary.after.num),
    )
    if summary.void_attempts:
        table.add_row(
            "  void as failure",
            rate_text(summary.before_all),
            "→",
            rate_text(summary.after_all),
            str(summary.after_all.num),
        )
    for cell in sorted(set(summary.cells_before) | set(summary.cells_after)):
        after = summary.cells_after.get(cell)
        table.add_row(
            f"  {cell}",
            rate_text(summary.cells_before.get(cell)),
            "→",
            rate_text(after),
            str(after.num) if after else "",
        )
    if summary.structural is not None:
        table.add_row(
            Text("another structure", "bold"),
            Text("–", "dim"),
            "",
            rate_text(summary.structural, "bold"),
            str(summary.structural.num),
        )
    return table


def _baselines(summary: Summary) -> Table:
    table = plain_table("scripts, some of these tasks", "success", "tasks")
    for name, rate in summary.baselines.items():
        table.add_row(f"  {name}", rate_text(rate), str(rate.num))
    return table


def _facts(summary: Summary, path: Path) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    in_order = sorted(
        summary.phase_wall_s.items(),
        key=lambda each: _PHASES.index(each[0]) if each[0] in _PHASES else len(_PHASES),
    )
    phases = " · ".join(f"{name} {wall_s:.0f}" for name, wall_s in in_order)
    table.add_row("wall", f"{summary.wall_s:.0f} s after set-up ({phases})")
    stolen = (
        f", {summary.stolen_ratio:.0%} of the machine taken by its host"
        if summary.stolen_ratio >= 0.01
        else ""
    )
    table.add_row("CPU", f"{summary.cpu_s:.0f} s, load {summary.load:.1f}{stolen}")
    cpu = f" at {summary.tool_cpu_ms_p50:.2f} ms CPU" if summary.tool_cpu_ms_p50 else ""  # 0 in memory
    tools = f"{counted(summary.tool_calls, 'tool call')}{cpu}"
    over_all = (
        f"; success over all tasks, void or not: {summary.after_all.success:.2f}"
        if summary.after_all.num
        else ""
    )
    table.add_row("work", f"{counted(summary.sampled_tokens, 'token')} sampled, {tools}")
    table.add_row("void", f"{summary.void_attempts}{over_all}")
    for line in cause_lines(summary.void_causes):
        table.add_row("", Text(line.removeprefix("void "), "yellow"))
    if doubts := _doubts(summary):
        table.add_row("in doubt", doubts)
    table.add_row("isolation", tier_text(summary.isolation_tier))
    table.add_row("report", Text(f"{path / 'report.html'}", "bold"))
    run = quote(str(path))
    table.add_row("next", f"agito eval {run} · agito play --checkpoint {run} · agito replay {run}")
    return table


def _doubts(summary: Summary) -> str:
    """Empty when nobody looked twice, or nothing was found."""
    found, parts = (
        summary.monitor,
        [f"{summary.quarantined_attempts} penalised"] if summary.quarantined_attempts else [],
    )
    rate, step = found.get("hack_ratio"), found.get("alarm_step")
    if isinstance(rate, float):
        parts.append(
            f"estimated hack rate {rate:.2%} ({counted(found.get('num_gold'), 'attempt')} judged by gold)"
        )
    stopped = found.get("stopped_cells")
    parts += (
        [f"nothing more learned from {cell}: {why}" for cell, why in stopped.items()]
        if isinstance(stopped, dict)
        else []
    )
    return ", ".join([*parts, f"alarm at RL step {step}: {found.get('why')}"] if step is not None else parts)
