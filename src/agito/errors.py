"""Every error that Agito raises on purpose, each with the exit code that the command line returns for it."""

from __future__ import annotations


class AgitoError(Exception):
    """One clear line with a remedy. `exit_code` is stable across releases."""

    exit_code = 1


class BadRecipe(AgitoError, ValueError):
    """A recipe or an override that does not hold: the field, the value and the remedy."""

    exit_code = 3


class NotFound(AgitoError, FileNotFoundError):
    """A recipe, run, checkpoint, environment or attempt that is not there."""

    exit_code = 4

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "not found"


class BadEnvironment(AgitoError, ValueError):
    """An environment of somebody's own that cannot be loaded: what is missing, or what it raised
    and where.
    """

    exit_code = 3


class BadHarness(AgitoError, ValueError):
    """A harness of somebody's own that cannot be loaded: what is missing, or what it raised and where."""

    exit_code = 3


class CorruptCheckpoint(AgitoError):
    """A checkpoint that cannot be read back exactly as it was written."""

    exit_code = 5


class NoIsolation(AgitoError):
    """This machine offers no sandbox; nothing is ever run without one."""

    exit_code = 6


class DiskFull(AgitoError):
    """The run directory cannot be written; what is committed is intact."""

    exit_code = 7


class WorkerDied(AgitoError):
    """A process of ours ended or fell silent."""

    exit_code = 8


class WorkerFailed(WorkerDied):
    """A process of ours raised an error that a restart would only repeat."""


class RequestRefused(AgitoError, ValueError):
    """One request ended several processes of ours, and is given up; others are served."""

    exit_code = 8


class Diverged(AgitoError):
    """A replay did not reproduce what was recorded."""

    exit_code = 9


class InvalidArguments(AgitoError):
    """A call's arguments are invalid; the policy reads the message. Any other exception from a tool counts as
    a fault of the environment.
    """


class SandboxFailure(AgitoError):
    """The sandbox itself failed, not the command inside it. The attempt is void, unless its calls end a fresh
    sandbox too.
    """

    exit_code = 10


class SandboxExhausted(SandboxFailure):
    """The episode used up what it was given (memory, processes, descriptors, time), and its sandbox went with
    it: scored as it stands.
    """


class Uncapturable(AgitoError, ValueError):
    """What an episode left behind cannot be captured whole, by its size, depth, names or modes. It has no
    artefacts then, and is scored.
    """


class NotAdmitted(AgitoError):
    """An environment that fails its audit: which gates do not hold, and what to do about each."""

    exit_code = 13


class AnswerReachable(AgitoError):
    """A task's hidden answer can be reached from inside its own world; no episode may begin there."""

    exit_code = 11


class EnvironmentPaused(AgitoError):
    """Training stopped: the environment rewards attempts that its held-out validator rejects, or too many
    attempts end void.
    """

    exit_code = 12


class EndpointFailed(AgitoError):
    """An endpoint of somebody else's that cannot be reached, or refuses, or never gives what can be read."""

    exit_code = 14


INTERRUPTED = 130  # Ctrl-C
