"""What is known about a run while it goes on, in plain lines, and how to go on with one that was stopped."""

from __future__ import annotations
