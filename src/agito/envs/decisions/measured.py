"""The measures of the five worlds, by decision; `docs/environments/decisions.md` works an example of each."""

from __future__ import annotations

from agito.protocols import Measure

MEASURES = (
    Measure(name="chain_early", decision="a", title="answers before the answer was certain", is_share=True),
    Measure(name="chain_late_turns", decision="a", title="turns after it was certain"),
    Measure(name="chain_late_tokens", decision="a", title="tokens after it was certain"),
    Measure(name="chain_notes", decision="a", title="times it thought aloud", optimum_is_best=False),
    Measure(
        name="dag_overcost",
        decision="b",
        title="price over the cheapest plan, as a share of it",
        is_share=True,
    ),
    Measure(name="dag_violations", decision="b", title="steps whose source was not at hand"),
    Measure(
        name="fanout_overtime_all", decision="b", title="time over the optimum, parts at once", is_share=True
    ),
    Measure(
        name="fanout_overtime_line",
        decision="b",
        title="time over the optimum, parts in a line",
        is_share=True,
    ),
    Measure(name="fanout_too_early", decision="b", title="starts before what the part needs, in a line"),
    Measure(name="fanout_unjoined", decision="b", title="joins without all parts", is_share=True),
    Measure(
        name="probe_gap", decision="c", title="value lost against the Bayes-optimal actions, in hundredths"
    ),
    Measure(
        name="probe_optimal",
        decision="c",
        title="actions that are Bayes-optimal",
        is_share=True,
        higher_is_better=True,
    ),
    Measure(name="probe_readings", decision="c", title="readings taken", optimum_is_best=False),
    Measure(
        name="probe_right", decision="c", title="answers that are right", is_share=True, higher_is_better=True
    ),
    Measure(
        name="dag_recovery_busy",
        decision="d",
        title="recovered: open, passes",
        is_share=True,
        higher_is_better=True,
    ),
    Measure(
        name="dag_recovery_broken",
        decision="d",
        title="recovered: open, for good",
        is_share=True,
        higher_is_better=True,
    ),
    Measure(
        name="dag_recovery_silent",
        decision="d",
        title="recovered: silent, passes",
        is_share=True,
        higher_is_better=True,
    ),
    Measure(
        name="dag_recovery_dead",
        decision="d",
        title="recovered: silent, for good",
        is_share=True,
        higher_is_better=True,
    ),
    Measure(
        name="ledger_contradictions",
        decision="e",
        title="claims that contradict what was read",
        is_share=True,
    ),
    Measure(name="ledger_stale", decision="e", title="… with a value that no longer holds", is_share=True),
    Measure(
        name="ledger_forgotten", decision="e", title="… by taking what stands for retracted", is_share=True
    ),
    Measure(name="ledger_invented", decision="e", title="… with what was never said", is_share=True),
)
