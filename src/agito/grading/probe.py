"""Searches for the answer from inside an episode's sandbox: every surface that code can read, unpacked if
packed.

Surfaces: files of every mount but the system's programs; everything on `sys.path`; git objects, loose and
packed, with deltas, alternates, submodules and extra commits; compiled modules; archives; environment
variables; other processes; open descriptors; sockets. Not covered: answers that are encrypted or spelled
differently.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agito.errors import SandboxFailure
from agito.protocols import Sandbox

_TIMEOUT_S = 60.0
_MASK = 0x5A  # masks the needles, or the probe would find its own

_PROBE = r'''
import bz2, gzip, io, json, lzma, os, stat, sys, tarfile, zipfile, zlib
needles = [bytes(each ^ MASK for each in needle) for needle in NEEDLES]
found = []
LIMIT = 1 << 26

def holds(data):
    return any(needle in data for needle in needles)

def report(surface, where):
    found.append(f"{surface}: {where}")

def inflate(data, at=0):
    """One zlib stream and where it ends."""
    unpack = zlib.decompressobj()
    out = unpack.decompress(data[at:], LIMIT)
    return out, len(data) - len(unpack.unused_data)

def pack(data):
    """Every object of a git pack; a delta's inserted text is in it as it stands."""
    at = 12
    for _ in range(int.from_bytes(data[8:12], "big")):
        kind, byte = data[at] >> 4 & 7, data[at]
        at += 1
        while byte & 128:
            byte = data[at]
            at += 1
        if kind == 6:
            while data[at] & 128:
                at += 1
            at += 1
        elif kind == 7:
            at += 20
        out, at = inflate(data, at)
        yield kind, out

def unpacked(data, depth=0):
    """What is inside, layer by layer."""
    if depth > 3:
        return
    inner = []
    try:
        if data[:4] == b"PACK":
            inner = [out for _, out in pack(data)]
        elif data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inner = [archive.read(each) for each in archive.infolist() if each.file_size < LIMIT]
        elif data[:2] == b"\x1f\x8b":
            inner = [gzip.decompress(data)]
        elif data[:3] == b"BZh":
            inner = [bz2.decompress(data)]
        elif data[:6] == b"\xfd7zXZ\0":
            inner = [lzma.decompress(data)]
        elif data[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                inner = [archive.extractfile(each).read() for each in archive if each.isfile()]
        elif data[:1] == b"\x78":
            inner = [inflate(data)[0]]
    except Exception:
        return
    for each in inner:
        yield each
        yield from unpacked(each, depth + 1)

def look(surface, path, deep=True):
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            target = os.readlink(path) if os.path.islink(path) else ""
            if holds(os.fsencode(target)):
                report(surface, path)
            return
        with open(path, "rb") as file:
            data = file.read(LIMIT)
    except OSError:
        return
    if holds(data) or holds(os.fsencode(path)) or (deep and any(map(holds, unpacked(data)))):
        kind = "git objects" if "/objects/" in path else "compiled module" if path.endswith(".pyc") else surface
        report(kind, path)

def git(folder):
    """One orphan commit and nothing that leads elsewhere."""
    store = os.path.join(folder, "objects")
    for name in ("info/alternates", "info/http-alternates"):
        if os.path.exists(os.path.join(store, name)):
            report("git objects", f"{store}/{name} leads to another store")
    for name in ("modules", "logs", "worktrees", "refs/stash", "refs/original", "ORIG_HEAD", "FETCH_HEAD", "packed-refs", "refs/remotes"):
        if os.path.exists(os.path.join(folder, name)):
            report("git history", f"{folder}/{name}")
    commits = 0
    for place, _, names in os.walk(store):
        for name in names:
            try:
                with open(os.path.join(place, name), "rb") as file:
                    data = file.read(LIMIT)
                if name.endswith(".pack"):
                    commits += sum(kind == 1 for kind, _ in pack(data))
                elif len(name) == 38:
                    commits += inflate(data)[0].startswith(b"commit ")
            except Exception:
                report("git objects", f"{place}/{name} cannot be read")
    if commits != 1 and ORPHAN:
        report("git history", f"{folder} holds {commits} commits")

def mounts():
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    if holds(" ".join(points).encode()):
        report("mounts", "mountinfo")
    return points

system = {"/proc", "/usr", "/lib", "/lib64", "/lib32", "/libx32", "/bin", "/sbin", "/dev"}
roots = ["/"] + [point for point in mounts() if point != "/" and not any(point == each or point.startswith(each + "/") for each in system)]
roots += os.environ.get("PYTHONPATH", "").split(":")
if LIBRARIES:
    roots += [path for path in sys.path if path.startswith("/")]
    roots += [f"{base}/{name}" for base in ("/usr/lib", "/usr/local/lib", sys.prefix + "/lib") if os.path.isdir(base)
              for name in os.listdir(base) if name.startswith("python")]
seen = set()
for root in roots:
    if not root or not os.path.isdir(root):
        continue
    for place, folders, names in os.walk(root):
        real = os.path.realpath(place)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = [each for each in folders if os.path.join(place, each) not in system]
        is_library = real.startswith(("/usr/", sys.prefix)) and not real.startswith("/work")
        surface = "site-packages" if is_library else "files"
        for name in names:
            look(surface, os.path.join(place, name), deep=not is_library or name.endswith((".zip", ".whl", ".egg", ".gz")))
        if os.path.isdir(os.path.join(place, "objects")) and os.path.exists(os.path.join(place, "HEAD")):
            git(place)
if holds("\0".join(f"{name}={value}" for name, value in os.environ.items()).encode("utf-8", "surrogateescape")):
    report("environment variables", "of an episode's own commands")
me = str(os.getpid())
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ", "comm"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if holds(file.read(LIMIT)):
                    report("/proc", f"{pid}/{name}")
        except OSError:
            pass
    if pid != me:
        try:
            with open(f"/proc/{pid}/maps") as file, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in file:
                    span, mode = line.split()[:2]
                    start, stop = (int(end, 16) for end in span.split("-"))
                    if mode[0] == "r" and "[v" not in line and stop - start < LIMIT:
                        memory.seek(start)
                        if holds(memory.read(stop - start)):
                            report("/proc", f"{pid}/mem")
                            break
        except (OSError, ValueError):
            pass
for name in ("cmdline", "keys"):
    look("/proc", f"/proc/{name}")
for name in ("tcp", "tcp6", "udp", "udp6"):
    try:
        with open(f"/proc/net/{name}") as file:
            for line in list(file)[1:]:
                if line.split()[3] in ("0A", "07"):
                    report("sockets", f"something listens on {name} {line.split()[1]}")
    except OSError:
        pass
try:
    with open("/proc/net/unix") as file:
        for line in list(file)[1:]:
            fields = line.split()
            if len(fields) > 7:
                report("sockets", f"unix {fields[7]}")
except OSError:
    pass
listing = os.open("/proc/self/fd", os.O_RDONLY)
for number in sorted(int(each) for each in os.listdir(listing)):
    if number > 2 and number != listing:
        try:
            report("open descriptors", os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
print(json.dumps(found))
'''  # noqa: E501


async def probe(
    sandbox: Sandbox, needles: Sequence[bytes], *, one_commit: bool = True, libraries: bool = True
) -> tuple[str, ...]:
    """Places where a needle, or something that could lead to one, can be reached: "surface: where". Empty if
    there are none.

    `libraries` includes the installed packages; these are the same for every sandbox of a pool, so one search
    per pool is enough (a second or two). Raises `SandboxFailure` if the search did not finish, which proves
    nothing.
    """
    masked = [bytes(each ^ _MASK for each in needle) for needle in needles]
    settings = f"MASK, NEEDLES, ORPHAN, LIBRARIES = {_MASK}, {masked!r}, {one_commit!r}, {libraries!r}\n"
    result = await sandbox.py(settings + _PROBE, timeout_s=_TIMEOUT_S)
    text = result.output.decode("utf-8", "replace")
    if result.exit_code != 0 or result.total_bytes != len(result.output):
        raise SandboxFailure(f"the search for leaks did not finish: {result.killed_by or text[-400:]}")
    found = json.loads(text)
    assert isinstance(found, list)
    return tuple(str(each) for each in found)  # type: ignore[reportUnknownVariableType, reportUnknownArgumentType]
