"""A stateful service over SQLite: operations with permissions, validation, idempotency keys and transactions,
offered as tools or over HTTP.
"""

from __future__ import annotations

from agito.worlds.api.database import Change, Database, differences, dump, image
from agito.worlds.api.service import Operation, Problem, Reply, Service

__all__ = ["Change", "Database", "Operation", "Problem", "Reply", "Service", "differences", "dump", "image"]
