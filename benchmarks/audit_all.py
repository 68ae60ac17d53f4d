"""Audits every bundled environment: how long it takes, and whether every gate holds.

    python benchmarks/audit_all.py [--short] [--only NAME]... [--ship]

The last line is a JSON object: for every environment `seconds`, and `gates` by name with whether each holds.
`--ship` writes the cards to `src/agito/audit/cards`, including those of the test fakes; run it after changing
an environment's source. Target: every environment within two minutes on two cores (the browser one within
five), all gates green.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

from agito.audit import FULL, SHORT, Card, audit
from agito.concurrency import run
from agito.envs import bundled, load
from agito.training.admission import SHIPPED
from harness import RESULTS, Json, report

FAKES = {"coin": "agito.testing:FakeEnvironment"}
SECONDS = {"web": 260.0}  # audit time where the default is too short


def card_of(name: str, short: bool) -> Card:
    depth = SHORT if short else replace(FULL, seconds=SECONDS.get(name, FULL.seconds))
    return run(lambda: audit(lambda: load(name), depth=depth))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--ship", action="store_true", help="write the cards that the package ships")
    parser.add_argument("--only", choices=[*bundled(), *FAKES], action="append", default=[])
    options = parser.parse_args()
    names = {name: FAKES.get(name, name) for name in options.only or bundled()} | (
        FAKES if options.ship and not options.only else {}
    )
    kept = (
        json.loads((RESULTS / "audit_all.json").read_text())
        if options.only
        else {"figures": {}, "detail": {}}
    )
    figures: dict[str, Json] = kept["figures"]
    detail: dict[str, Json] = kept["detail"]
    for label, name in names.items():
        began, spent = time.perf_counter(), time.process_time()
        card = card_of(name, options.short)
        seconds = round(time.perf_counter() - began, 1)
        figures[label] = {"seconds": seconds, "gates": {gate.name: gate.holds for gate in card.gates}}
        detail[label] = {
            "digest": card.digest,
            "episodes": card.episodes,
            "cpu_s_of_this_process": round(time.process_time() - spent, 1),
            "qualities": {
                quality.name: {"mark": str(quality.mark), "says": quality.says} for quality in card.qualities
            },
            "cases": [f"{quality.name}: {case.what}" for quality in card.qualities for case in quality.cases],
        }
        failed = ", ".join(gate.name for gate in card.failed)
        print(f"{label:12} {seconds:6.1f} s  {f'FAILS {failed}' if failed else 'all gates hold'}")
        if options.ship:
            SHIPPED.mkdir(exist_ok=True)
            (SHIPPED / f"{label}.json").write_bytes(card.to_json())
    report("audit_all", figures, json.loads(json.dumps(detail)))


if __name__ == "__main__":
    main()
