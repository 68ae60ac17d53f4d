"""`agito train --dry-run`: what a run will ask of this machine, before it is begun; what will not fit is
refused, with the knob.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.text import Text

from agito.cli.exit_codes import say, work
from agito.cli.tables import counted, plain_table, print_table
from agito.cli.terminal import out, show
from agito.errors import BadRecipe
from agito.recipe import Recipe
from agito.training.planning.footprint import Footprint, Part, footprint, free_memory
from agito.training.planning.probe import PROBE_S, Probe, probe

_MEGA, _GIGA = 1 << 20, 1 << 30


def dry_run(recipe: Recipe, path: Path) -> None:
    """Arithmetic first, so that nothing is loaded that has no room. Raises `BadRecipe` for what will not
    fit.
    """
    found = footprint(recipe)
    free, disk = free_memory(), shutil.disk_usage(_existing(path)).free
    _print_memory(recipe, found, free)
    require_room(found, free=free, disk=disk, is_here=recipe.compute.device == "cpu")
    say(
        f"loads the model, and then tries it for about {PROBE_S:.0f} s; what has begun by then is waited "
        "for, on a busy machine much longer"
    )
    seen = work(lambda: probe(recipe))
    _print_steps(recipe, found, seen, disk)
    if recipe.compute.device == "cpu" and seen.rss_bytes > free:
        raise BadRecipe(
            f"it took {_bytes(seen.rss_bytes)} of memory in the probe, and {_bytes(free)} are free; "
            f"{_remedy(found)}"
        )


def require_room(found: Footprint, *, free: int, disk: int, is_here: bool = True) -> None:
    """Raises `BadRecipe`, with the numbers and the knob of the largest part. `is_here`: whether the network
    is in this machine's own memory, not in a GPU's.
    """
    if is_here and found.total > free:
        raise BadRecipe(
            f"this run takes about {_bytes(found.total)} of memory and {_bytes(free)} are free; "
            f"{_remedy(found)}"
        )
    if found.disk_bytes > disk:
        raise BadRecipe(
            f"the checkpoints of this run take about {_bytes(found.disk_bytes)} of disk and {_bytes(disk)} "
            'are free; --out another place, or model.adapter="lora"'
        )


def _remedy(found: Footprint) -> str:
    largest = max(found.parts, key=lambda part: part.total)
    return f"the largest part is {largest.name}, {_bytes(largest.total)}; change {largest.knob}"


def _print_memory(recipe: Recipe, found: Footprint, free: int) -> None:
    console = out()
    share = found.num_trained / found.num_params
    show(
        console,
        Text.assemble(
            ("parameters  ", "dim"),
            f"{_count(found.num_params)}, of which {_count(found.num_trained)} are trained ({share:.1%})\n",
        ),
    )
    table = plain_table("memory", "each", "processes", "all", "change it by")
    for part in found.parts:
        table.add_row(f"  {part.name}", *_cells(part), part.knob)
    turns = "learning and sampling take turns" if found.takes_turns else ""
    table.add_row(Text("  together", "bold"), "", "", Text(_bytes(found.total), "bold"), Text(turns, "dim"))
    print_table(console, table)
    where = "free here" if recipe.compute.device == "cpu" else "free here; a GPU's own is not looked at"
    show(console, Text(f"  {_bytes(free)} {where}\n", "dim"))


def _print_steps(recipe: Recipe, found: Footprint, seen: Probe, disk: int) -> None:
    console = out()
    table = plain_table("from a short probe", "")
    if seen.rss_bytes:
        table.add_row("  memory, Python and torch too", f"{_bytes(seen.rss_bytes)} at its largest so far")
    num = recipe.rl.groups * recipe.rl.group_size
    if seen.sampled_tokens:
        table.add_row(
            "  tokens a step",
            f"{counted(round(num * seen.sampled_tokens), 'token')} sampled, "
            f"{counted(round(num * seen.all_tokens), 'token')} learned from, in {counted(num, 'attempt')}",
        )
    cold, sft = seen.cold_start_s(recipe), recipe.sft
    if sft.demos and cold is not None:
        steps = sft.epochs * sft.demos // sft.batch
        table.add_row(
            "  cold start", f"{steps} steps of imitation, {_time(cold)}, once its demonstrations are there"
        )
    step = seen.step_s(recipe)
    if step is not None:
        bound = "" if seen.attempts and not seen.are_first else "at most "
        together = max(step) if recipe.pipeline.mode == "decoupled" else sum(step)
        table.add_row(
            "  seconds a step",
            f"{together:.1f} (sampling {bound}{step[0]:.1f}, learning at most {step[1]:.1f})",
        )
        table.add_row("  reinforcement", f"{recipe.rl.steps} steps, {_time(together * recipe.rl.steps)}")
    else:
        table.add_row("  seconds a step", f"unknown: {_missing(seen)}")
    kept = f"{_bytes(found.checkpoint_bytes)} a checkpoint, {_bytes(found.disk_bytes)} a run"
    table.add_row("  disk", f"{kept}; {_bytes(disk)} free")
    print_table(console, table)
    show(console, Text(f"\n{_caveat(recipe, seen)}", "dim"))


def _caveat(recipe: Recipe, seen: Probe) -> str:
    who = "the model as it is" if recipe.model.path else "a network that has learned nothing yet"
    what = (
        f"From {counted(len(seen.attempts), 'attempt')} of {who}: trained ones are longer or shorter."
        if seen.attempts
        else "No attempt ended in time: lengths are those of demonstrations."
        if seen.is_scripted and seen.shown
        else "No attempt ended in time, so it is not known how long they are."
    )
    overlap = " agito plan foresees the overlapped loop." if recipe.pipeline.mode == "decoupled" else ""
    has_cold = recipe.sft.demos and seen.cold_start_s(recipe) is not None
    top = (
        "Evaluations come"
        if has_cold or not (recipe.sft.demos or recipe.sft.messages)
        else "Cold start and evaluations come"
    )
    return f"{what} {top} on top.{overlap}"


def _missing(seen: Probe) -> str:
    if not seen.is_scripted and not seen.shown:
        return f"not one completion of at most {seen.turn_limit} tokens ended within {PROBE_S:.0f} s"
    if not seen.learned_tokens:
        return f"one step of learning takes more than {PROBE_S:.0f} s"
    return "not one turn ended in time"


def _cells(part: Part) -> tuple[str, str, str]:
    return _bytes(part.num_bytes), str(part.num), _bytes(part.total)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1_000_000 else f"{number:,}".replace(",", " ")


def _bytes(number: int) -> str:
    return f"{number / _GIGA:.1f} GB" if number >= _GIGA else f"{number / _MEGA:.1f} MB"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
