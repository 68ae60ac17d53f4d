"""`agito eval --endpoint`: a served model in the place of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import typer
from rich.text import Text

from agito.cli.evaluate import How, board_of, show_evaluation
from agito.cli.exit_codes import work
from agito.cli.progress import shown
from agito.cli.terminal import err
from agito.errors import BadRecipe, EndpointFailed
from agito.evaluation import endpoint
from agito.evaluation.saved_policy import Evaluation
from agito.harness.endpoint import ChatHarness
from agito.recipe import EnvSection, Recipe
from agito.record.events import OnEvent
from agito.runtime import load_policy
from agito.types import Dialect, Effort, Thinking

NUM_TASKS = 150  # by default
_ANSWER_S = 300.0


def evaluate_endpoint(url: str, model: str, given: Sequence[Path], how: How, *, baselines: bool) -> None:
    """On the tasks of a run, as one of its own checkpoints; without a run, on those of `--env`."""
    if len(given) > 1:
        raise typer.BadParameter("give at most one run, whose tasks it is", param_hint="RUN")
    if not given and how.changes.env is None:
        raise typer.BadParameter("add --env ENV, or the run whose tasks it is", param_hint="--endpoint")
    require_address(url)
    natural = Recipe(env=EnvSection(dialect=Dialect.NATURAL))
    learned = load_policy.recipe_of(load_policy.find(given[0])) if given else natural
    recipe = _natural(how.changes.applied_to(learned))
    num_tasks = how.num_tasks or (recipe.eval.tasks if given else NUM_TASKS)
    temperature = recipe.eval.temperature if how.temperature is None else how.temperature

    async def evaluate(on_event: OnEvent) -> Evaluation:
        turn_tokens = None if given else ChatHarness.TURN_TOKENS
        effort = how.changes.effort
        async with asking(url, model, temperature=temperature, effort=effort, turn_tokens=turn_tokens) as it:
            return await endpoint.evaluate(
                it,
                f"{url} {model}",
                recipe,
                on_event,
                split=how.split,
                num_tasks=num_tasks,
                temperature=temperature,
                baselines=baselines,
                num_attempts=how.num_attempts,
            )

    about = f"{recipe.env.title} · {how.split} · temperature {temperature:g} · seed {recipe.seed}"
    heading = Text.assemble((f"{model} at {url}", "bold"), "  ", (about, "dim"))
    with shown(board_of(num_tasks, how.num_attempts, baselines=baselines), err(), heading) as view:
        evaluation = work(lambda: evaluate(view.handle))
    show_evaluation(evaluation, as_json=how.as_json)
    policy = evaluation.policy
    require_verdicts(policy.void, policy.over_all.num, policy.void_causes)


def require_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRecipe(f"--endpoint {url}: write an address, such as http://localhost:8000/v1")


def require_verdicts(void: int, num: int, causes: Mapping[str, int]) -> None:
    if 2 * void > num:
        raise EndpointFailed(f"{void} of {num} attempts have no verdict: {next(iter(causes), '')}")


@asynccontextmanager
async def asking(
    url: str, model: str, *, temperature: float, effort: Effort | None, turn_tokens: int | None
) -> AsyncGenerator[ChatHarness]:
    """The endpoint's key is read from OPENAI_API_KEY, if it needs one."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(
        base_url=url.rstrip("/") + "/", headers=headers, timeout=_ANSWER_S
    ) as client:
        thinking = Thinking(effort=effort) if effort is not None else None
        yield ChatHarness(client, model, temperature=temperature, thinking=thinking, turn_tokens=turn_tokens)


def _natural(recipe: Recipe) -> Recipe:
    """What an endpoint speaks."""
    return recipe.model_copy(update={"env": recipe.env.model_copy(update={"dialect": Dialect.NATURAL})})
