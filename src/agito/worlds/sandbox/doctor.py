"""Which isolation layers work on this machine, found by starting a sandbox, never by guessing."""

from __future__ import annotations

import os

from agito.errors import AgitoError
from agito.protocols import SandboxSpec
from agito.worlds.sandbox.pool import Pool
from agito.worlds.sandbox.users import Users


async def layers() -> dict[str, str]:
    """Each layer's name and its state here. Raises `NoIsolation` if there is no sandbox at all."""
    async with await Pool.open(warm=0) as pool:
        box = await pool.start(SandboxSpec())
        result = await box.sh("id -u; pwd; grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status")
        await box.close()
        if result.exit_code != 0 or not result.output.startswith(b"1000\n/work\n"):
            raise AgitoError(
                f"the sandbox started, but its first command did not work: {result.output[:200]!r}"
            )
        zygote, group, users = pool.zygote, pool.zygote.group, pool.zygote.users
        return {
            "tier": pool.tier,
            "namespaces": "user, mount, pid, network (loopback only), ipc, uts, cgroup",
            "user": _users(users),
            "seccomp": "deny-list" if zygote.has_seccomp else "off",
            "landlock": f"version {zygote.landlock}" if zygote.landlock >= 2 else "not in this kernel",
            "memory": f"a control group for each sandbox ({', '.join(group.controllers)}), and a watchdog "
            "in each"
            if group
            else "a watchdog in each sandbox; no control group may be made here",
            "workspace": "overlay on tmpfs"
            if zygote.has_overlay
            else "tmpfs; snapshots are copied whole (overlay needs Linux 6.6)",
            "interpreter": zygote.interpreter,
        }


def _users(users: Users) -> str:
    if users.count > 1:
        return f"one for each sandbox, from {users.first + 1} on"
    own = users.first == os.geteuid()
    return (
        f"your own ({users.first}), in its own user namespace"
        if own
        else f"dropped to {users.first}, the same for all sandboxes"
    )


async def probe() -> str:
    """The tier. Raises `NoIsolation`, which names the remedy."""
    return (await layers())["tier"]
