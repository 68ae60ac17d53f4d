"""A run's data for the page, read from its files: facts, curves, time by activity.

The names in `metrics.jsonl` and `summary.json` are the only contract; missing series are not drawn.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, TypeAlias, cast

Curve: TypeAlias = dict[str, Any]  # {"step": [...], "wall_s": [...], "values": {name: [number or None, ...]}}

_Z = NormalDist().inv_cdf(0.975)
_MAX_POINTS = 400  # per curve; longer ones are thinned evenly


def read_run(path: Path) -> dict[str, Any]:
    """All data of the page except the episodes; strict JSON. Torn lines of metrics are skipped."""
    curves = read_curves(path / "metrics.jsonl")
    summary = _json(path / "summary.json")
    config = path / "config.toml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.exists() else ""
    return {
        "name": path.resolve().name,
        "run": _json(path / "run.json") or {},
        "config": text,
        "environment": environment(text),
        "summary": summary,
        "training": _training(curves.get("rl")),
        "heldout": _heldout(curves.get("rl"), "eval"),
        "before": next(iter(_heldout(curves.get("before"), "success")), None),
        "time": _time(curves, summary),
        "roles": read_roles(curves.get("rl")),
        "curves": {phase: _thinned(curve) for phase, curve in curves.items()},
    }


def environment(config: str) -> str:
    """What was trained on, without the paths of its folders; empty when the recipe does not say."""
    try:
        section: Any = tomllib.loads(config).get("env")
        mix: Any = section.get("mix") or [section]
        names = [str(each["name"]) for each in mix]
    except (tomllib.TOMLDecodeError, AttributeError, KeyError, TypeError):
        return ""
    return " + ".join(re.sub(r"(?<![^,=+])[^,=+]*/", "", name) for name in names)


def read_curves(path: Path) -> dict[str, Curve]:
    """One curve per phase; if a step was measured twice, the later value of each name counts."""
    merged: dict[str, dict[int, dict[str, Any]]] = {}
    for raw in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            line = json.loads(raw)
            merged.setdefault(str(line["phase"]), {}).setdefault(int(line["step"]), {}).update(line)
        except (ValueError, KeyError, TypeError):
            continue
    return {phase: _curve([steps[step] for step in sorted(steps)]) for phase, steps in merged.items()}


def wilson(successes: float, num: float) -> tuple[float, float]:
    """Wilson's 95 % interval; (0, 1) when `num` is 0. Source: Wilson, 1927."""
    if num <= 0:
        return 0.0, 1.0
    p, scale = successes / num, 1 + _Z * _Z / num
    centre = (p + _Z * _Z / (2 * num)) / scale
    half = _Z / scale * math.sqrt(p * (1 - p) / num + _Z * _Z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


def _curve(lines: Sequence[Mapping[str, Any]]) -> Curve:
    names = sorted({name for line in lines for name in line if "/" in name})
    return {
        "step": [line["step"] for line in lines],
        "wall_s": [line.get("wall_s") for line in lines],
        "values": {name: [line.get(name) for line in lines] for name in names},
    }


def _training(curve: Curve | None) -> Curve | None:
    """Success rate of each training step with its interval, from counts."""
    counts = _counts(curve)
    if curve is None or not counts:
        return None
    kept = [
        (step, wall_s, k, n)
        for step, wall_s, (k, n) in zip(curve["step"], curve["wall_s"], counts, strict=True)
        if n
    ]
    intervals = [wilson(k, n) for _, _, k, n in kept]
    return {
        "step": [row[0] for row in kept],
        "wall_s": [row[1] for row in kept],
        "rate": [k / n for _, _, k, n in kept],
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
        "num": [n for _, _, _, n in kept],
    }


def _heldout(curve: Curve | None, area: str) -> list[dict[str, Any]]:
    """Evaluations: `<area>/successes` of `<area>/num`. Those during training are named `eval`."""
    found: list[dict[str, Any]] = []
    for index, (k, n) in enumerate(_counts(curve, area)):
        if curve is not None and n:
            low, high = wilson(k, n)
            at = {"step": curve["step"][index], "wall_s": curve["wall_s"][index]}
            found.append({**at, "rate": k / n, "low": low, "high": high, "num": n})
    return found


def _counts(curve: Curve | None, area: str = "success") -> list[tuple[float, float]]:
    values: Mapping[str, list[float | None]] = curve["values"] if curve else {}
    if f"{area}/successes" not in values or f"{area}/num" not in values:
        return []
    return [
        (k or 0.0, n or 0.0) for k, n in zip(values[f"{area}/successes"], values[f"{area}/num"], strict=True)
    ]


def _time(curves: Mapping[str, Curve], summary: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Seconds of each phase by activity; the remainder is `other`."""
    totals: dict[str, float] = dict(summary["phase_wall_s"]) if summary and "phase_wall_s" in summary else {}
    rows: list[dict[str, Any]] = []
    for phase in [*totals, *(phase for phase in curves if phase not in totals)]:
        values: Mapping[str, list[float | None]] = curves[phase]["values"] if phase in curves else {}
        parts = {
            name[5:-2]: sum(v or 0.0 for v in column)
            for name, column in values.items()
            if name[:5] == "time/" and name[-2:] == "_s"
        }
        parts = (
            {"step": parts["step"]} if "step" in parts else parts
        )  # overlapped loops: activities within a step are concurrent
        itemised = sum(parts.values())
        total = max(totals.get(phase, itemised), itemised)
        parts["other"] = parts.get("other", 0.0) + total - itemised
        if total > 0:
            rows.append({"phase": phase, "total": total, "parts": parts})
    return rows


def read_roles(curve: Curve | None) -> list[dict[str, Any]]:
    """What rollout process, engines and trainer did in each RL step: its seconds, and the fraction of each
    state; the rest is waiting."""
    if curve is None:
        return []
    rows: list[dict[str, Any]] = []
    for index, step in enumerate(curve["step"]):
        line = {name: float(column[index] or 0.0) for name, column in curve["values"].items()}
        if "trainer/idle_ratio" in line:  # overlapped loops
            total = line["time/step_s"]
            trainer = {
                "learns": 1 - line["trainer/idle_ratio"],
                "gated": line.get("trainer/gate_wait_ratio", 0.0),
            }
            engine = {
                "samples": line.get("engine/busy_ratio", 0.0),
                "paused": line.get("engine/publish_pause_ratio", 0.0),
            }
        elif "time/rollout_s" in line and "time/train_s" in line:
            total = line["time/rollout_s"] + line["time/train_s"]
            trainer = {"learns": line["time/train_s"] / total if total else 0.0}
            engine = {
                "samples": line.get("engine/busy_ratio", 0.0) * line["time/rollout_s"] / total
                if total
                else 0.0
            }
        else:
            return []
        rows.append(
            {
                "step": step,
                "total": total,
                "rollout": {"acts": line.get("rollout/busy_ratio", 0.0)},
                "engine": engine,
                "trainer": trainer,
            }
        )
    return rows[:: math.ceil(len(rows) / _MAX_POINTS) or 1]


def _thinned(curve: Curve) -> Curve:
    stride = math.ceil(len(curve["step"]) / _MAX_POINTS) or 1
    return {
        "step": curve["step"][::stride],
        "wall_s": curve["wall_s"][::stride],
        "values": {name: column[::stride] for name, column in curve["values"].items()},
    }


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
