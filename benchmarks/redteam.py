"""Which graders do scripted exploits get past, which of them are noticed, and does honest work pass?

    python benchmarks/redteam.py [--short]

Every exploit is tried on the weak graders that it is made for; one that gets past none of them has not fired
and does not count. Then it meets ours: the trusted grader of function tasks, or, for answers, that of the
bundled shell environment. Whether it solved the task after all is decided by cases that no grader uses.
Honest work is done by people's habits in many styles and, for answers, by the shell environment's own solver.
Real sandboxes, a real pytest.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict

import anyio

from agito.envs.shell import ShellEnvironment
from agito.grading.answers import answer_flags
from agito.record.intervals import wilson
from agito.redteam.battery import Tried, Worked, counts, employ, fire, judge, plan
from agito.redteam.boxes import AttackBoxes
from agito.redteam.exploit import MAIN, Twin
from agito.redteam.honest import honest_work
from agito.redteam.runner_site import runner_site
from agito.rollout import act_out
from agito.types import AttemptId, EpisodeArtifacts, Status, Verdict
from agito.worlds.sandbox import Pool
from harness import Json, report

_SHORT_STEP = 5  # every so many exploits and pieces of work
_SHELL_TASKS = 24
_NAMES = {Twin.STDOUT: "stdout", Twin.REWARD_FILE: "reward_file", Twin.FRESH_PYTEST: "fresh_pytest"}


async def shell_answers(pool: Pool, tasks: int) -> list[tuple[Verdict, str]]:
    """Verdicts and submissions of the shell environment's own solver, which is honest."""
    environment = ShellEnvironment(pool=pool)
    found: list[tuple[Verdict, str]] = []
    for index in range(tasks):
        task, target = environment.task(split="heldout", index=index, seed=1)
        control = await environment.open(task, target, AttemptId(group=index, slot=0), noise_seed=1)
        await act_out(control.session, task.limits, environment.solutions(task, target)[0])
        sealed = await control.seal()
        found.append((await environment.grade(sealed, target, 1), sealed.submitted or ""))
    return found


async def ask_shell(answer: str) -> Verdict:
    """What the shell environment's grader says to an answer to a *find* task."""
    environment = ShellEnvironment()
    task, target = environment.task(split="heldout", index=0, seed=1, family="find", level=3)
    return await environment.grade(
        EpisodeArtifacts(task_id=task.id, submitted=answer, files={}, digest=""), target, 1
    )


async def run(*, is_short: bool) -> tuple[list[Tried], list[Worked], list[tuple[Verdict, str]]]:
    step = _SHORT_STEP if is_short else 1
    tried, work = plan()[::step], [Worked(honest=each) for each in honest_work()[::step]]
    with runner_site() as site:
        async with await Pool.open(warm=2) as pool:
            boxes = AttackBoxes(pool, site)
            await fire(boxes, tried)
            await judge(boxes, tried, ask_shell)
            await employ(boxes, work)
            answers = await shell_answers(pool, _SHELL_TASKS // step)
            await boxes.drop()
    return tried, work, answers


def table(
    tried: list[Tried], work: list[Worked], answers: list[tuple[Verdict, str]]
) -> tuple[dict[str, Json], dict[str, Json]]:
    fired = [each for each in tried if each.has_fired]
    ours = [(each, each.ours) for each in fired if each.ours is not None]
    passing = [each.exploit.name for each, judged in ours if judged.has_passed]
    flagged = [each for each, judged in ours if judged.flags]
    weakly = counts([each.passed for each in fired])
    weak_work = [each for each in work if each.passed]
    wrongly = [
        each.honest.name for each in work if each.ours and each.honest.is_right and not each.ours.has_passed
    ]
    wrongly += [
        f"shell: {answer}"
        for verdict, answer in answers
        if verdict.status is not Status.SCORED or verdict.reward < 1.0
    ]
    suspected = {
        each.honest.name: sorted({flag.kind for flag in each.ours.flags})
        for each in work
        if each.ours and each.ours.flags
    }
    suspected |= {
        f"shell: {answer}": ["answer"] for verdict, answer in answers if verdict.flags or answer_flags(answer)
    }
    num_honest = len(work) + len(answers)
    passed: dict[str, Json] = {**{_NAMES[twin]: weakly[twin] for twin in MAIN}, "ours": len(passing)}
    by_class: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"fired": 0, "flagged": 0})
    for each, judged in ours:
        by_class[each.exploit.kind]["fired"] += 1
        by_class[each.exploit.kind]["flagged"] += bool(judged.flags)
    figures: dict[str, Json] = {
        "attacks": len(tried),
        "fired": len(fired),
        "passed": passed,
        "passed_upper": round(wilson(len(passing), len(fired))[1], 4),
        "flagged": len(flagged),
        "flagged_share": round(len(flagged) / max(len(fired), 1), 4),
        "honest": num_honest,
        "honest_rejected": len(wrongly),
        "honest_flagged": len(suspected),
        "honest_upper": round(wilson(len(suspected), num_honest)[1], 4),
    }
    detail: dict[str, Json] = {
        "not fired": [each.exploit.name for each in tried if not each.has_fired],
        "passing ours": passing,
        "solving after all": [each.exploit.name for each, judged in ours if judged.is_solved],
        "fired but not flagged": [each.exploit.name for each, judged in ours if not judged.flags],
        # Fillers of exploits that return a constant are noticed for that alone; what their mechanism gives
        # away is the stricter figure.
        "flagged by more than ignoring the input": sum(
            any(flag.kind != "ignores_input" for flag in judged.flags) for _, judged in ours
        ),
        "proofs": sum(any(flag.is_proof for flag in judged.flags) for _, judged in ours),
        "fired on": {twin.value: count for twin, count in weakly.items() if count},
        "honest work on weak graders": len(weak_work),
        "honest rejected by": {twin.value: sum(not each.passed[twin] for each in weak_work) for twin in MAIN},
        "honest rejected": wrongly,
        "honest flagged": suspected,
        "classes": dict(by_class),
    }
    return figures, detail


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--short", action="store_true", help=f"every {_SHORT_STEP}th exploit and piece of work"
    )
    options = parser.parse_args()
    began, cpu = time.monotonic(), sum(os.times()[:4])
    tried, work, answers = anyio.run(lambda: run(is_short=options.short))
    figures, detail = table(tried, work, answers)
    spent: dict[str, Json] = {
        "wall_s": round(time.monotonic() - began, 1),
        "host_cpu_s": round(sum(os.times()[:4]) - cpu, 1),
    }
    for each in tried:
        names = ", ".join(twin.value for twin, has in each.passed.items() if has) or "nobody"
        kinds = sorted({flag.kind for flag in each.ours.flags}) if each.ours else []
        print(
            f"{each.exploit.kind:38} {each.exploit.name:26} past {names}; {', '.join(kinds) or 'not flagged'}"
        )
    report("redteam", figures, {**spent, **detail})


if __name__ == "__main__":
    main()
