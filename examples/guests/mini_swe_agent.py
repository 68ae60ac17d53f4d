"""`mini-swe-agent` as it comes: its own prompt, and bash where it runs."""

import os

import yaml
from minisweagent.agents.default import DefaultAgent
from minisweagent.config import builtin_config_dir
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel

config = yaml.safe_load((builtin_config_dir / "mini.yaml").read_text())
prompts = {name: config["agent"][name] for name in ("system_template", "instance_template")}
model = LitellmModel(model_name="openai/mine", cost_tracking="ignore_errors", **config["model"])
DefaultAgent(model, LocalEnvironment(), **prompts).run(os.environ["AGITO_TASK"])
