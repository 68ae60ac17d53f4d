"""`python -m agito.cli`."""

from __future__ import annotations

from agito.cli import main

main()
