"""A Python tool: snippets in the episode's own warm sandbox, with or without state between them.

State is kept in a workspace file: pickled values, and source of imports and definitions. So file snapshots
include it, forks continue with it, and no process lives between calls. What can be neither pickled nor re-run
(an open file, a generator) is named and lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from agito.protocols import Sandbox, SandboxPool, SandboxSpec
from agito.types import Call, Exactness, ToolSpec
from agito.worlds.component import Answer, answer_of, captured, spec, text_of

PYTHON = spec(
    "python", "Runs Python code; shows what it prints and the value of a last expression.", ["code"]
)
STATE = ".python/state"
SPEC = SandboxSpec(work_mb=32, tmp_mb=8, mem_mb=256, procs=32, fsize_mb=16, cpu_s=30, output_bytes=16_384)


class PythonTool:
    """Implements `Component`. The sandbox starts with the first snippet. `files` are in its workspace from
    the start.

    States with equal values may have different digests if pickling differs.
    """

    exactness = Exactness.FILESYSTEM
    captures = ""  # any path
    tools: tuple[ToolSpec, ...] = (PYTHON,)

    def __init__(
        self,
        pool: SandboxPool,
        *,
        keeps_state: bool = True,
        files: Mapping[str, str] | None = None,
        spec: SandboxSpec = SPEC,
        name: str = "python",
    ) -> None:
        self.name, self._pool, self._keeps_state, self._spec = name, pool, keeps_state, spec
        self._files = dict(files or {})
        self._sandbox: Sandbox | None = None

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        code = text_of(call, "code")
        sandbox = await self._open()
        result = await sandbox.py(
            f"{_DRIVER}\nrun({code!r}, {STATE if self._keeps_state else None!r})", timeout_s=timeout_s
        )
        return answer_of(result)

    async def _open(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = await self._pool.start(self._spec)
            await self._sandbox.write(self._files)
        return self._sandbox

    async def snapshot(self) -> object:
        return await (await self._open()).snapshot()

    async def fork(self, token: object) -> PythonTool:
        assert isinstance(token, str)
        child = PythonTool(
            self._pool, keeps_state=self._keeps_state, files=self._files, spec=self._spec, name=self.name
        )
        child._sandbox = await self._pool.fork(token)
        return child

    async def digest(self) -> str:
        files = (
            await captured(self._sandbox)
            if self._sandbox
            else {path: text.encode() for path, text in self._files.items()}
        )
        hashes = sorted((path, hashlib.sha256(data).hexdigest()) for path, data in files.items())
        return hashlib.blake2b(repr(hashes).encode(), digest_size=16).hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        """The workspace without the kept state."""
        if self._sandbox is None:
            return {path: text.encode() for path, text in self._files.items()}
        await self._sandbox.kill()
        return {path: data for path, data in (await captured(self._sandbox)).items() if path != STATE}

    async def close(self) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()


# Runs inside the sandbox, where everything is the policy's: it unpickles only what it pickled itself.
_DRIVER = """
import ast, os, pickle, sys, traceback, types

def run(code, path):
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    sources = load(path, space) if path else {}
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        print("".join(traceback.format_exception_only(error)), end="")
        sys.exit(1)
    sources.update(defined(tree, code))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    failed = False
    try:
        exec(compile(tree, "<snippet>", "exec", dont_inherit=True), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<snippet>", "eval", dont_inherit=True), space)
            if value is not None:
                print(repr(value))
    except SystemExit:
        raise
    except BaseException as error:
        failed = True
        print("".join(traceback.format_exception(error.with_traceback(error.__traceback__.tb_next))), end="")
    if path:
        save(path, space, sources)
    sys.stdout.flush()
    if failed:
        sys.exit(1)

def defined(tree, code):
    found = {}
    for node in tree.body:
        names = []
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        for name in names:
            found[name] = ast.unparse(node)
    return found

def load(path, space):
    try:
        with open(path, "rb") as file:
            sources, values = pickle.load(file)
    except (OSError, EOFError, pickle.UnpicklingError, ValueError):
        return {}
    waiting = dict(sources)
    for _ in range(2):  # a default argument can need a value, a value can need a class
        for name in list(waiting):
            try:
                exec(waiting[name], space)
                del waiting[name]
            except Exception:
                pass
        try:
            space.update(pickle.loads(values))
            values = pickle.dumps({})
        except Exception:
            pass
    return sources

def save(path, space, sources):
    kept, lost = {}, []
    for name, value in space.items():
        if name.startswith("__") or isinstance(value, types.ModuleType) or (name in sources and is_definition(value)):
            continue
        try:
            pickle.dumps(value)
            kept[name] = value
        except Exception:
            lost.append(name)
    sources = {name: source for name, source in sources.items() if name in space and is_definition(space[name])}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        pickle.dump((sources, pickle.dumps(kept)), file)
    if lost:
        print("(not kept: " + ", ".join(lost) + ")")

def is_definition(value):
    return isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)) or callable(value)
"""  # noqa: E501
