"""Keys as Chromium expects them, and scripts for controls that are not typed into. The scripts run in an
isolated world.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    key: str
    code: str
    number: int
    text: str = ""


def _plain(name: str, number: int) -> Stroke:
    return Stroke(key=name, code=name, number=number)


KEYS = {
    "Enter": Stroke(key="Enter", code="Enter", number=13, text="\r"),
    "Space": Stroke(key=" ", code="Space", number=32, text=" "),
    **{
        name: _plain(name, number)
        for name, number in (
            ("Tab", 9),
            ("Escape", 27),
            ("Backspace", 8),
            ("Delete", 46),
            ("ArrowUp", 38),
            ("ArrowDown", 40),
            ("ArrowLeft", 37),
            ("ArrowRight", 39),
            ("Home", 36),
            ("End", 35),
            ("PageUp", 33),
            ("PageDown", 34),
        )
    },
}

TAKES = {
    "Date": ": write 2026-01-31",
    "InputTime": ": write 14:05",
    "ColorWell": ": write #a0b1c2",
    "DateTime": ": write 2026-01-31T14:05, 2026-01 or 2026-W05",
}

# Chooses by displayed label. Null: not an HTML select.
CHOOSE = """function(label) {
  if (this.nodeName !== 'SELECT') return null;
  const found = [...this.options].find(each => each.label.replace(/\\s+/g, ' ').trim() === label);
  if (!found || found.disabled) return false;
  if (this.multiple) found.selected = !found.selected; else found.selected = true;
  this.dispatchEvent(new Event('input', {bubbles: true}));
  this.dispatchEvent(new Event('change', {bubbles: true}));
  return true;
}"""

# True: the control now holds exactly this value. Null: not an HTML input.
SET = """function(value) {
  if (this.nodeName !== 'INPUT') return null;
  const before = this.value;
  this.value = value;
  const isSame = this.value.toLowerCase() === value.toLowerCase();
  const same = this.type === 'range' ? value.trim() !== '' && Number(this.value) === Number(value) : isSame;
  if (!same) { this.value = before; return false; }
  this.dispatchEvent(new Event('input', {bubbles: true}));
  this.dispatchEvent(new Event('change', {bubbles: true}));
  return true;
}"""

SUGGESTED = (
    "function() { return this.list ? [...this.list.options].slice(0, 50).map(each => each.value) : []; }"
)

# Scrolls by part of the window and waits until scroll listeners have run.
SCROLL = """(scrollBy(0, innerHeight * {by}),
new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))))"""
