"""The loop and what it is made of; start with `loop.py`."""
