"""`python -m agito`: the command line."""

from __future__ import annotations

from agito.cli import main

if __name__ == "__main__":
    main()
