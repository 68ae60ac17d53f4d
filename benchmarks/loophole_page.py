"""Draws the curves of `loophole.py` as one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

# arm, seed, curves by name, step of the alarm, step of the onset
Drawn: TypeAlias = tuple[str, int, Mapping[str, Sequence[float]], int | None, int | None]

_ARMS = {
    "off": "defence off",
    "on": "defence on",
    "clean": "a check without the hole",
    "traced, penalty 0": "one of two ways proved, penalty 0",
    "traced, penalty .5": "one of two ways proved, penalty .5",
}
_INK = {"reward": "#b45309", "gold": "#15803d", "hack_rate": "#b91c1c"}
_WIDTH, _HEIGHT, _PAD = 340, 200, 28


def page(runs: Sequence[Drawn]) -> str:
    """One row per seed, one panel per arm."""
    seeds = sorted({seed for _, seed, *_ in runs})
    rows = ["".join(_panel(run) for arm in _ARMS for run in runs if run[:2] == (arm, seed)) for seed in seeds]
    keys = "".join(f'<b style="color:{ink}">{name.replace("_", " ")}</b> ' for name, ink in _INK.items())
    head = (
        "<meta charset=utf-8><title>A planted loophole</title><style>body{font:14px "
        "system-ui;margin:2rem}svg{margin:4px}</style>"
    )
    text = (
        "Every RL step: what the check paid, what the held-out validator confirms, share of attempts "
        "paid for what it denies. "
    )
    marks = "Dashed: the alarm; dotted: the first window of 500 attempts above 2 % hacks."
    body = "".join(f"<div>{row}</div>" for row in rows)
    return (
        f"<!doctype html><html lang=en>{head}<h1>A planted "
        f"loophole</h1><p>{text}{marks}<p>{keys}{body}</html>\n"
    )


def _panel(run: Drawn) -> str:
    arm, seed, curves, alarm, onset = run
    last = max(len(next(iter(curves.values()))) - 1, 1)

    def x(step: float) -> float:
        return _PAD + step / last * (_WIDTH - 2 * _PAD)

    def y(value: float) -> float:
        return _HEIGHT - _PAD - value * (_HEIGHT - 2 * _PAD)

    parts = [f'<text x="{_PAD}" y="16">{_ARMS[arm]}, seed {seed}</text>']
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<line x1="{_PAD}" x2="{_WIDTH - _PAD}" y1="{y(tick)}" y2="{y(tick)}" stroke="#ddd"/>')
        parts.append(f'<text x="2" y="{y(tick) + 4}" font-size="10">{tick}</text>')
    parts.append(
        f'<text x="{_WIDTH - _PAD}" y="{_HEIGHT - 8}" font-size="10" text-anchor="end">RL step {last}</text>'
    )
    for step, dash in ((alarm, "6 4"), (onset, "1 3")):
        if step is not None:
            parts.append(
                f'<line x1="{x(step)}" x2="{x(step)}" y1="{_PAD}" y2="{_HEIGHT - _PAD}" stroke="#444" '
                f'stroke-dasharray="{dash}"/>'
            )
    for name, curve in curves.items():
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in enumerate(curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{_INK[name]}" stroke-width="1.8"/>')
    title = json.dumps({"arm": arm, "seed": seed, "alarm": alarm, "onset": onset}).replace('"', "&quot;")
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
