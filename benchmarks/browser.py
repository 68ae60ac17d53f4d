"""Browser actions per CPU second, including Chromium's own: navigate, fill, read, and a fresh context.

    python benchmarks/browser.py [--short]

Every action is complete: input, loading of its effects, and reading the accessibility tree as text. The same
is measured on the text browser, and whole episodes of the environment's solver on both. CPU time covers all
processes in the browser's sandbox and this process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable

import anyio

from agito.envs.web import TextWebEnvironment, WebEnvironment
from agito.envs.web.instance import generate
from agito.envs.web.site import START, WebSite
from agito.testing.episodes import play
from agito.types import AttemptId
from agito.worlds.browser import Farm, Tab, Tabs, TextTabs
from harness import Json, report, spread

_CPU = (
    "import glob\nticks = 0\nfor name in glob.glob('/proc/[0-9]*/stat'):\n  try:\n    found = "
    "open(name).read().rsplit(')', 1)[1].split()\n"
    "    ticks += int(found[11]) + int(found[12])\n  except OSError: pass\nprint(ticks / 100)"
)


async def cpu_s(tabs: Tabs) -> float:
    """CPU time of the browser's live processes and of this one."""
    inside = 0.0
    if isinstance(tabs, Farm) and tabs._box is not None:
        inside = float((await tabs._box.py(_CPU)).output)
    return inside + time.process_time()


async def measure(tabs: Tabs, count: int, action: Callable[[int], Awaitable[object]]) -> dict[str, Json]:
    await action(0)
    walls: list[float] = []
    began = await cpu_s(tabs)
    for index in range(count):
        at = time.perf_counter()
        await action(index)
        walls.append((time.perf_counter() - at) * 1000)
    used = await cpu_s(tabs) - began
    return {
        "per_s_core": round(count / used, 1),
        "cpu_ms": round(used / count * 1000, 2),
        "wall_ms": spread(walls),
    }


async def of(tabs: Tabs, count: int) -> dict[str, dict[str, Json]]:
    site = WebSite(generate(split="train", family="shop", level=3, seed=1))
    tab: Tab = await tabs.page(site.respond)
    item = f"{START}in/{site._instance.sections[0][0]}/{site._instance.sections[0][1][0].name}"
    views = [await tab.goto(item)]

    async def navigate(index: int) -> None:
        views[0] = await tab.goto(START)
        views[0] = await tab.click(views[0].elements[0])

    found = {"navigate_twice": await measure(tabs, count, navigate)}
    views[0] = await tab.goto(item)

    async def fill(index: int) -> None:
        views[0] = await tab.fill(views[0].elements[0], str(index))

    async def look(index: int) -> None:
        await tab.look()

    async def context(index: int) -> None:
        other = await tabs.page(site.respond)
        await other.goto(START)
        await other.close()

    found |= {"fill": await measure(tabs, count, fill), "look": await measure(tabs, count, look)}
    found["context"] = await measure(tabs, max(5, count // 4), context)
    await tab.close()
    return found


async def episodes(env: WebEnvironment, tabs: Tabs, count: int) -> dict[str, Json]:
    began, at, num_actions = await cpu_s(tabs), time.perf_counter(), 0
    for index in range(count):
        task, target = env.task(split="train", index=index, seed=0, level=1 + index % 3)
        played = await play(env, task, target, env.solutions(task, target)[0], AttemptId(group=index, slot=0))
        assert played.verdict.reward == 1.0
        num_actions += len(played.events)
    used = await cpu_s(tabs) - began
    return {
        "episodes_per_s_core": round(count / used, 2),
        "actions_per_s_core": round(num_actions / used, 1),
        "actions_per_s_wall": round(num_actions / (time.perf_counter() - at), 1),
    }


async def main(count: int) -> None:
    farm, text = Farm(), TextTabs()
    detail: dict[str, Json] = {"chromium": await of(farm, count), "text": await of(text, count * 5)}
    whole = await episodes(WebEnvironment(tabs=farm), farm, max(6, count // 4))
    detail |= {"version": farm.version, "episodes_chromium": whole}
    detail["episodes_text"] = by_text = await episodes(TextWebEnvironment(), text, count * 2)
    await farm.aclose()
    report(
        "browser",
        {
            "actions_per_s_core": whole["actions_per_s_core"],
            "episodes_per_s_core": whole["episodes_per_s_core"],
            "text_actions_per_s_core": by_text["actions_per_s_core"],
            "wanted_actions_per_s": 15,
        },
        detail,
    )


if __name__ == "__main__":
    anyio.run(main, 20 if "--short" in sys.argv else 80)
