"""`python -m agito.record.tracking RUN TRACKER`: started by the run, which holds the other end of stdin."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from agito.record.tracking.follow import follow


def main() -> int:
    try:
        follow(Path(sys.argv[1]), sys.argv[2], sys.stdin.fileno())
    except Exception as error:  # the boundary: it is somebody else's program
        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
