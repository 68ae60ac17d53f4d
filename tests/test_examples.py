"""The scripts of `examples/` run, in a short form."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from tests.cli.conftest import TINY, environment

from agito.record import Summary

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, cards and caches go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)


def test_an_environment_in_one_file_is_trained_and_its_run_is_evaluated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = (*TINY, "compute.context=192")
    summary = example("own_environment").main(Path("run"), tiny, admit_anyway=True)
    assert isinstance(summary, Summary)
    assert summary.after.num == 8
    found = example("evaluate_policy").main(Path("run"), num_tasks=4)
    assert found.policy.overall.num == 4
    assert "oracle" in capsys.readouterr().out


def test_a_credit_estimator_of_ones_own_decides_the_advantages() -> None:
    own = example("own_credit")
    summary = own.main(Path("run"), (*TINY, "env.name=agito.testing:FakeEnvironment", "compute.context=192"))
    assert summary.after.num == 8
    assert "own_credit.py:Discounted" in Path("run/config.toml").read_text()


def test_the_readme_names_every_example() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in readme]
