"""Evaluates any policy: a run, a checkpoint, or a Hugging Face folder, on any environment.

python examples/evaluate_policy.py runs/quickstart
python examples/evaluate_policy.py models/smollm2-135m shell
"""

from __future__ import annotations

import sys
from pathlib import Path

import agito
from agito.evaluation.saved_policy import Evaluation


def main(policy: Path, env: str | None = None, num_tasks: int = 40) -> Evaluation:
    """Success on held-out tasks. Without `env`, the tasks are those of the policy's own run."""
    found = agito.evaluate(policy, env=env, num_tasks=num_tasks)
    rows = {"policy": found.policy, **found.baselines}
    for name, scores in rows.items():
        rate = scores.overall
        print(f"{name:20} {rate.success:.2f}  [{rate.low:.2f}, {rate.high:.2f}]  of {rate.num}")
    for cell, rate in sorted(found.policy.cells.items()):
        print(f"  {cell:18} {rate.success:.2f}  of {rate.num}")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), env=sys.argv[2] if len(sys.argv) > 2 else None)
