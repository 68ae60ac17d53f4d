"""What runs in the environment of vLLM, which has no `agito`."""
