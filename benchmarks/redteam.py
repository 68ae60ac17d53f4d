"""Which graders do scripted exploits fool, which exploits are noticed, and does honest work pass?

    python benchmarks/redteam.py [--short]

Every exploit is tried on the weak graders that it targets; one that fools none of them has not fired and does
not count. Then it meets the trusted grader of function tasks or, for answers, that of the bundled shell
environment. Cases that no grader uses decide whether it solved the task after all. Honest work comes in many
styles and, for answers, from the shell environment's own solver. Real sandboxes, a real pytest.
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
from agito.redteam.battery import ExploitTrial, HonestTrial, counts, plan, run_honest, run_trusted, run_weak
from agito.redteam.boxes import AttackBoxes
from agito.redteam.exploit import MAIN, WeakGrader
from agito.redteam.honest import honest_work
from agito.redteam.runner_site import runner_site
from agito.rollout import act_out
from agito.types import AttemptId, EpisodeArtifacts, Status, Verdict
from agito.worlds.sandbox import Pool
from harness import Json, report

_SHORT_STEP = 5  # every fifth exploit and piece of work
_SHELL_TASKS = 24
_NAMES = {
    WeakGrader.STDOUT: "stdout",
    WeakGrader.REWARD_FILE: "reward_file",
    WeakGrader.FRESH_PYTEST: "fresh_pytest",
}


async def shell_answers(pool: Pool, tasks: int) -> list[tuple[Verdict, str]]:
    """Verdicts and submissions of the shell environment's own honest solver."""
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
    """The shell environment's verdict on an answer to a *find* task."""
    environment = ShellEnvironment()
    task, target = environment.task(split="heldout", index=0, seed=1, family="find", level=3)
    return await environment.grade(
        EpisodeArtifacts(task_id=task.id, submitted=answer, files={}, digest=""), target, 1
    )


async def run(*, is_short: bool) -> tuple[list[ExploitTrial], list[HonestTrial], list[tuple[Verdict, str]]]:
    step = _SHORT_STEP if is_short else 1
    tried, work = plan()[::step], [HonestTrial(honest=each) for each in honest_work()[::step]]
    with runner_site() as site:
        async with await Pool.open(warm=2) as pool:
            boxes = AttackBoxes(pool, site)
            await run_weak(boxes, tried)
            await run_trusted(boxes, tried, ask_shell)
            await run_honest(boxes, work)
            answers = await shell_answers(pool, _SHELL_TASKS // step)
            await boxes.drop()
    return tried, work, answers


def honest_trouble(
    work: list[HonestTrial], answers: list[tuple[Verdict, str]]
) -> tuple[list[str], dict[str, list[str]]]:
    """Honest work that was rejected although right, and the flags on honest work."""
    rejected = [
        each.honest.name
        for each in work
        if each.trusted and each.honest.is_right and not each.trusted.has_passed
    ]
    rejected += [
        f"shell: {answer}"
        for verdict, answer in answers
        if verdict.status is not Status.SCORED or verdict.reward < 1.0
    ]
    flagged = {
        each.honest.name: sorted({flag.kind for flag in each.trusted.flags})
        for each in work
        if each.trusted and each.trusted.flags
    }
    flagged |= {
        f"shell: {answer}": ["answer"] for verdict, answer in answers if verdict.flags or answer_flags(answer)
    }
    return rejected, flagged


def table(
    tried: list[ExploitTrial], work: list[HonestTrial], answers: list[tuple[Verdict, str]]
) -> tuple[dict[str, Json], dict[str, Json]]:
    fired = [each for each in tried if each.has_fired]
    trusted = [(each, each.trusted) for each in fired if each.trusted is not None]
    passing = [each.exploit.name for each, result in trusted if result.has_passed]
    flagged = [each for each, result in trusted if result.flags]
    weakly = counts([each.passed for each in fired])
    weak_work = [each for each in work if each.passed]
    wrongly, suspected = honest_trouble(work, answers)
    num_honest = len(work) + len(answers)
    passed: dict[str, Json] = {**{_NAMES[grader]: weakly[grader] for grader in MAIN}, "ours": len(passing)}
    by_class: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"fired": 0, "flagged": 0})
    for each, result in trusted:
        by_class[each.exploit.kind]["fired"] += 1
        by_class[each.exploit.kind]["flagged"] += bool(result.flags)
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
        "solving after all": [each.exploit.name for each, result in trusted if result.is_solved],
        "fired but not flagged": [each.exploit.name for each, result in trusted if not result.flags],
        # Exploits whose body returns a constant are noticed for that alone; the stricter figure counts what
        # their mechanism reveals.
        "flagged by more than ignoring the input": sum(
            any(flag.kind != "ignores_input" for flag in result.flags) for _, result in trusted
        ),
        "proofs": sum(any(flag.is_proof for flag in result.flags) for _, result in trusted),
        "fired on": {grader.value: count for grader, count in weakly.items() if count},
        "honest work on weak graders": len(weak_work),
        "honest rejected by": {
            grader.value: sum(not each.passed[grader] for each in weak_work) for grader in MAIN
        },
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
        names = ", ".join(grader.value for grader, has in each.passed.items() if has) or "nobody"
        kinds = sorted({flag.kind for flag in each.trusted.flags}) if each.trusted else []
        print(
            f"{each.exploit.kind:38} {each.exploit.name:26} past {names}; {', '.join(kinds) or 'not flagged'}"
        )
    report("redteam", figures, {**spent, **detail})


if __name__ == "__main__":
    main()
