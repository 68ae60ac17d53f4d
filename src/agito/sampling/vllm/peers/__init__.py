"""Code that runs in vLLM's own environment, which has no `agito`."""
