"""Writes a policy as one Hugging Face folder: `python -m agito.runtime.merge CHECKPOINT FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from agito.errors import AgitoError
from agito.models import save
from agito.runtime.network import open_model
from agito.runtime.policy_sources import recipe_of, renderer_of
from agito.runtime.wire import ModelSpec


def merge(checkpoint: Path, into: Path) -> None:
    """An adapter is merged into its base. Tokenizer and chat template are the policy's; its generation config
    says that nothing is cut off when sampling, as in training, whatever the model's publisher advised.
    """
    recipe = recipe_of(checkpoint)
    own = renderer_of(checkpoint, recipe)
    model = open_model(ModelSpec(source=checkpoint, seed=0, dtype=recipe.model.dtype), "cpu")
    files = {name: text for name, text in own.files().items() if name != "generation_config.json"}
    save(model, into, eos_ids=own.stop_ids, extra=files)


def main(argv: list[str]) -> int:
    checkpoint, into = map(Path, argv)
    try:
        merge(checkpoint, into)
    except AgitoError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
