"""What the command line does, from Python: `train`, `resume`, `evaluate`, `replay`; synchronous.

Each raises the errors of `agito.errors` bare, and may be called inside a notebook.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

from agito import plugins
from agito.concurrency import run
from agito.config import build
from agito.config import read as read_config
from agito.envs.prompts.saved_prompts import Function, Prompts
from agito.envs.prompts.saved_prompts import named as prompts_named
from agito.errors import BadRecipe, NotAdmitted, NotFound
from agito.evaluation.effort import EffortCurve, evaluate_efforts
from agito.evaluation.saved_policy import Changes, Evaluation, evaluate_checkpoint
from agito.plugins import label, reads_file
from agito.protocols import Environment, Harness
from agito.recipe import Recipe
from agito.recipe import read as read_recipe
from agito.record import RunDir, RunState, Summary
from agito.record.events import Event, OnEvent
from agito.record.rundir import no_run
from agito.record.writable import require_folder
from agito.replays.episode import EpisodeReplay, replay_episode
from agito.runtime import load_policy
from agito.runtime.recipe_check import fit
from agito.training import run as training_run
from agito.training.admission import Admission, admit
from agito.training.progress.board import RunProgress, loading, planned
from agito.training.progress.lines import Lines, on_stderr
from agito.training.progress.stopped import stopped
from agito.types import AttemptId, Effort

Item = TypeVar("Item")
GivenEnvironment: TypeAlias = str | Environment | Callable[[], Environment]
GivenHarness: TypeAlias = str | Harness | Callable[[], Harness]


def train(
    recipe: str | Path | Recipe | None = None,
    *,
    environment: GivenEnvironment | None = None,
    harness: GivenHarness | None = None,
    prompts: Prompts | None = None,
    reward: Function | None = None,
    tools: Function | Sequence[Function] = (),
    model: Path | str | None = None,
    sft: Path | str | None = None,
    turns: int = 0,
    tokens: int = 0,
    overrides: Sequence[str] = (),
    out: Path | str | None = None,
    on_event: OnEvent | None = None,
    admit_anyway: bool = False,
) -> Summary:
    """Trains as `recipe` says (a bundled name, a path, or a `Recipe`) into `out`, by default `runs/<its
    name>`.

    `environment` and `harness` are names, classes, functions that make them, or objects, in place of the
    recipe's (without one, of quickstart's). Every use takes a copy of an environment that is an object; by
    its name and version its card is found.

    Without a recipe: on `prompts`, a file, a folder or a list of texts or of mappings with a `prompt`, by a
    `reward` function, from a pre-trained `model`; each turn has up to `tokens`, and with `tools` there are up
    to `turns`. `sft`: conversations to imitate first.

    `overrides` are as on the command line: `["rl.steps=10"]`. A run that is already in `out` is moved aside
    under a dated name. An environment without a card is audited first, and refused (`NotAdmitted`) unless it
    passes or `admit_anyway`, which the run keeps. Raises `NotFound`, `BadRecipe`, and whatever keeps a run
    from ending; what is committed by then can be resumed. `on_event` gets every event that the run's
    `events.jsonl` holds, as it happens (`agito.record.events`). Without it the run's course is told on
    standard error, a line every few seconds.
    """
    if reads_file.get():
        where = f"{reads_file.get()} calls agito.train while it is read for its functions"
        raise BadRecipe(f"{where}: put the call under `if __name__ == '__main__':`")
    given = _given(prompts, reward, tools, model, sft, turns, tokens)
    if environment is not None and prompts is not None:
        raise BadRecipe("give an environment, or prompts with a reward function")
    if recipe is None and environment is not None:
        recipe, given = "quickstart", (f'name="{label(plugins.named(environment))}"', *given)
    given += _handed_in(environment, harness)
    fitted = fit(_recipe_of(recipe, given, _listed("overrides", overrides)))
    found = fitted.recipe
    path = Path(out) if out is not None else Path("runs") / found.name
    require_place(path)
    tell = on_stderr if on_event is None else _nobody
    tell(f"agito: {found.name}: the run will be in {path}")
    admission = _admitted(found, tell, anyway=admit_anyway)
    for note in (*admission.doubts, *fitted.notes):
        tell(f"agito: {note}")
    if (aside := place(path)) is not None:
        tell(f"agito: the earlier run is now {aside}")
    with _followed(found, path, on_event) as handle:
        return run(lambda: training_run.train(found, path, handle, admission=admission, notes=fitted.notes))


def _admitted(recipe: Recipe, tell: Callable[[str], None], *, anyway: bool) -> Admission:
    def begins(name: str) -> None:
        tell(f"agito: {plugins.shown(name)} is new here: auditing it first")

    try:
        return run(lambda: admit(*recipe.env.names, anyway=anyway, begins=begins))
    except NotAdmitted as error:  # in the words of Python, and without the audit's own frames
        raise NotAdmitted(str(error).replace("--admit-anyway", "admit_anyway=True")) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was begun: no run was made or moved") from None


def _nobody(line: str) -> None:
    """For whoever has an `on_event` of their own."""


@contextmanager
def _followed(recipe: Recipe, path: Path, on_event: OnEvent | None) -> Generator[OnEvent]:
    """What a run tells goes to `on_event`, or else to standard error. Whatever ends the run says how to go on
    with it.
    """
    lines = Lines(RunProgress(planned(recipe)), on_stderr if on_event is None else _nobody)
    followers = [lines.handle, *([] if on_event is None else [on_event])]

    def handle(event: Event) -> None:
        for follow in followers:
            follow(event)

    if on_event is None and (told := loading(recipe)):
        on_stderr(f"agito: {told}")
    try:
        yield handle
    except KeyboardInterrupt:
        told = stopped(lines.board, path, interrupted=True)
        raise KeyboardInterrupt(told or f"nothing was begun: there is no unfinished run in {path}") from None
    except Exception as error:
        if told := stopped(lines.board, path, interrupted=False):
            error.add_note(told)
        raise


def _told(on_event: OnEvent | None) -> OnEvent:
    """Of an evaluation, which has its own phases."""
    return on_event or Lines(RunProgress([])).handle


def _recipe_of(recipe: str | Path | Recipe | None, given: Sequence[str], overrides: Sequence[str]) -> Recipe:
    """Raises `NotFound` and `BadRecipe`."""
    if isinstance(recipe, Recipe):
        if overrides or given:
            raise BadRecipe(
                "overrides, prompts, an environment, a harness and a model go with a recipe's name or path; "
                "a Recipe is changed with model_copy"
            )
        return recipe
    if recipe is not None:
        return read_recipe(str(recipe), (*given, *overrides))
    if not any(each.startswith("env.name=") for each in given):
        raise BadRecipe("give a recipe, an environment, or prompts with a reward function")
    return build(Recipe, {}, (*given, *overrides))


def _given(
    prompts: Prompts | None,
    reward: Function | None,
    tools: Function | Sequence[Function],
    model: Path | str | None,
    sft: Path | str | None,
    turns: int,
    tokens: int,
) -> tuple[str, ...]:
    """As overrides. Raises `BadRecipe` and `BadEnvironment` for what does not go together."""
    found = [f"{key}={value}" for key, value in (("model.path", model), ("sft.messages", sft)) if value]
    if prompts is None:
        if reward is not None or tools or turns or tokens:
            raise BadRecipe("reward, tools, turns and tokens go with prompts")
        return tuple(found)
    if reward is None:
        raise BadRecipe("prompts need a reward function: reward=...")
    name = prompts_named(prompts, reward, tools, turns=turns, tokens=tokens)
    return (f'name="{label(name)}"', f"env.name={name}", *found)


def _handed_in(environment: GivenEnvironment | None, harness: GivenHarness | None) -> tuple[str, ...]:
    """As overrides."""
    given = (("env.name", environment), ("harness.name", harness))
    return tuple(f"{key}={plugins.named(each)}" for key, each in given if each is not None)


def resume(
    path: Path | str,
    *,
    environment: GivenEnvironment | None = None,
    harness: GivenHarness | None = None,
    on_event: OnEvent | None = None,
) -> Summary:
    """Goes on with the run in `path`, bit for bit. Raises `NotFound`, `BadRecipe` when it is finished,
    `CorruptCheckpoint`.

    An `environment` or a `harness` that was given as an object is given again.
    """
    if environment is not None or harness is not None:
        recipe = read_config(Recipe, Path(path) / "config.toml")
        for name, given in ((recipe.env.name, environment), (recipe.harness.name, harness)):
            if given is None:
                continue
            if not plugins.is_only_here(name) and plugins.named(given) != name:
                raise BadRecipe(f"{path}: this run has {plugins.shown(name)}; what it was given is another")
            if not isinstance(given, str):
                plugins.offer(name, given)
    run_dir = Path(path)
    if RunDir.state(run_dir) in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{run_dir}: {no_run(run_dir)}")
    with _followed(read_config(Recipe, run_dir / "config.toml"), run_dir, on_event) as handle:
        return run(lambda: training_run.resume(run_dir, handle))


def require_place(path: Path) -> None:
    """Raises `NotFound` where no run can go: something else is there, or nothing can be written."""
    if RunDir.state(path) is RunState.FOREIGN:
        raise NotFound(f"{path}: no run there, so nothing is moved; choose another name")
    require_folder(path)


def place(path: Path) -> Path | None:
    """Makes room for a new run: moves a run that is there aside and returns where it is now.

    Raises `NotFound` for a directory that is no run, and `AgitoError` while another process writes it.
    """
    return None if RunDir.state(path) is RunState.ABSENT else RunDir.move_aside(path)


def evaluate(
    checkpoint: Path | str,
    *,
    env: str | None = None,
    split: str = "heldout",
    families: Sequence[str] = (),
    levels: Sequence[int] = (),
    num_tasks: int | None = None,
    num_attempts: int = 1,
    temperature: float | None = None,
    seed: int | None = None,
    baselines: bool = True,
    effort: Effort | str | None = None,
    on_event: OnEvent | None = None,
) -> Evaluation:
    """`num_attempts` at each task by a checkpoint (or by a run's last one), beside scripts at the same tasks.

    What is not given is as in the checkpoint's run, so that the tasks are those of its own evaluation. Raises
    `NotFound`, `CorruptCheckpoint`, and `BadRecipe` for a split, family or level that the environment does
    not have.
    """
    directory = load_policy.find(Path(checkpoint))
    changes = Changes(
        env=env,
        families=_listed("families", families),
        levels=_listed("levels", levels),
        seed=seed,
        effort=None if effort is None else Effort(effort),
    )
    recipe = changes.applied_to(load_policy.recipe_of(directory))
    tasks = recipe.eval.tasks if num_tasks is None else num_tasks
    sampled_at = recipe.eval.temperature if temperature is None else temperature
    return run(
        lambda: evaluate_checkpoint(
            directory,
            recipe,
            _told(on_event),
            split=split,
            num_tasks=tasks,
            temperature=sampled_at,
            baselines=baselines,
            num_attempts=num_attempts,
        )
    )


def effort_curve(
    checkpoint: Path | str,
    *,
    efforts: Sequence[Effort | str] = (),
    split: str = "heldout",
    num_tasks: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    on_event: OnEvent | None = None,
) -> EffortCurve:
    """The same tasks at each of `efforts`, by default all that the run was trained at. Raises as
    `evaluate`."""
    directory = load_policy.find(Path(checkpoint))
    recipe = Changes(seed=seed).applied_to(load_policy.recipe_of(directory))
    wanted = tuple(map(Effort, _listed("efforts", efforts))) or recipe.effort.settings
    if not wanted:
        raise BadRecipe(f"{checkpoint}: it was trained at no effort (effort.settings)")

    async def measured() -> EffortCurve:
        curve, _ = await evaluate_efforts(
            directory,
            recipe,
            _told(on_event),
            split=split,
            num_tasks=recipe.eval.tasks if num_tasks is None else num_tasks,
            temperature=recipe.eval.temperature if temperature is None else temperature,
            efforts=wanted,
        )
        return curve

    return run(measured)


def _listed(name: str, given: Sequence[Item]) -> tuple[Item, ...]:
    """A string, or a number, where a list is meant would be read letter by letter, or not at all."""
    if isinstance(given, str | int):
        raise BadRecipe(f"{name}={given!r}: give a list, [{given!r}]")
    return tuple(given)


def replay(run_dir: Path | str, attempt: str | AttemptId, *, phase: str | None = None) -> EpisodeReplay:
    """A recorded attempt again, in a fresh world; `differences` is empty when nothing changed. `attempt` is
    such as "1000004.0".
    """
    wanted = AttemptId.parse(attempt) if isinstance(attempt, str) else attempt
    return run(lambda: replay_episode(Path(run_dir), wanted, phase=phase))
