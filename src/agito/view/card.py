"""An environment's card as one self-contained page, made from the card's JSON alone. All text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

_SIGNS = {"good": "✓", "doubt": "!", "bad": "✗"}


def write_card(card: dict[str, Any], path: Path) -> Path:
    """Writes the page. Raises `OSError`."""
    folder = files("agito.view") / "page"
    page = (folder / "card.html").read_text(encoding="utf-8")
    gates = [gate for quality in card["qualities"] for gate in quality["gates"]]
    parts = {
        "title": f"{escape(card['environment'])} · card · Agito",
        "style": (folder / "style.css").read_text(encoding="utf-8")
        + (folder / "card.css").read_text(encoding="utf-8"),
        "head": _head(card, gates),
        "broke": _broke(card["broke"]),
        "gates": _gates(sorted(gates, key=lambda gate: (gate["holds"], not gate.get("doubt")))),
        "qualities": "\n".join(_quality(each) for each in card["qualities"])
        + '<p class="sub">! marks what is worth a look; only ✗ keeps out of training.</p>',
    }
    pieces: list[str] = []
    for name, part in parts.items():
        before, found, page = page.partition(f"{{{{{name}}}}}")
        assert found, f"card.html has no {{{{{name}}}}} after the one before it"
        pieces += [before, part]
    path.write_text("".join([*pieces, page]), encoding="utf-8")
    return path


def _head(card: dict[str, Any], gates: Sequence[dict[str, Any]]) -> str:
    failed = [gate["name"] for gate in gates if not gate["holds"]]
    verdict = (
        f'<span class="bad">not fit to train on: {escape(", ".join(failed))}</span>'
        if failed
        else '<span class="good">fit to train on</span>'
    )
    machine = " · ".join(f"{escape(name)} {escape(str(value))}" for name, value in card["machine"].items())
    about = (
        f"{escape(card['depth'])} audit of version {escape(card['version'])}, {card['episodes']} episodes "
        f"in {card['seconds']:.0f} s · "
        f"{machine} · chance level {card['chance_level']:g} · digest "
        f"<code>{escape(card['digest'][:16])}</code>"
    )
    return f'<h1>{escape(card["environment"])} is {verdict}</h1><p class="sub">{about}</p>'


def _broke(cases: Sequence[dict[str, Any]]) -> str:
    rows = "".join(f"<li>{escape(case['what'])} <code>{escape(case['where'])}</code></li>" for case in cases)
    return (
        '<section><h2 class="bad">What it raised, in honest episodes</h2><ul '
        f'class="cases">{rows}</ul></section>'
        if rows
        else ""
    )


def _gates(gates: Sequence[dict[str, Any]]) -> str:
    rows: list[str] = []
    for gate in gates:
        doubt = gate.get("doubt", "")
        mark = "bad" if not gate["holds"] else "doubt" if doubt else "good"
        why = f"{doubt}: {gate['remedy']}" if gate["holds"] else f"Remedy: {gate['remedy']}"
        remedy = "" if mark == "good" else f'<p class="remedy">{escape(why)}.</p>'
        rows.append(
            "<tr><td "
            f'class="{mark}">{_SIGNS[mark]}</td><td><b>{escape(gate["name"])}</b></td><td>{escape(gate["found"])}{remedy}</td></tr>'
        )
    return "".join(rows)


def _quality(quality: dict[str, Any]) -> str:
    rows = "".join(_measure(each) for each in quality["measures"])
    cases = "".join(
        f"<li>{escape(case['what'])} <code>{escape(case['where'])}</code></li>" for case in quality["cases"]
    )
    return (
        f'<section><h2><span class="{quality["mark"]}">{_SIGNS[quality["mark"]]}</span> '
        f"{escape(quality['name'])}</h2>"
        f'<p class="lead">{escape(quality["says"])}</p><div class="panel"><table>{rows}</table>'
        + (f'<ul class="cases">{cases}</ul>' if cases else "")
        + "</div></section>"
    )


def _measure(measure: dict[str, Any]) -> str:
    interval, bar = "", ""
    if measure["low"] is not None:
        low, high, value = measure["low"], measure["high"], measure["value"]
        interval = f"{low:.3f}–{high:.3f}"
        bar = (
            '<span class="span" '
            f'style="--l:{100 * low:.1f}%;--h:{100 * high:.1f}%;--v:{100 * value:.1f}%"></span>'
        )
    basis = f"n = {measure['num']}" if measure["num"] else ""
    return (
        f'<tr><td>{escape(measure["name"])}</td><td class="num"><b>{_number(measure["value"])}</b> '
        f"{escape(measure['unit'])}</td>"
        f'<td class="num dim">{interval}</td><td class="wide">{bar}</td><td class="num '
        f'dim">{basis}</td><td class="dim">'
        f"{escape(measure['note'])}</td></tr>"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3f}"
