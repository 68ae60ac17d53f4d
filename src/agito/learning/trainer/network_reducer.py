"""Sums over ranks on several machines: all data goes through gloo, and every rank adds in the same order."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from agito.learning.trainer.reducer import SharedReducer

Store: TypeAlias = dist.Store  # pyright: ignore[reportPrivateImportUsage]
_WAIT = timedelta(seconds=300)
_SIOCGIFADDR = 0x8915


def host_store(host: str) -> tuple[Store, str]:
    """A rendezvous store in this process, and its address for `connect_store`."""
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_WAIT)
    return store, f"tcp://{host}:{store.port}"


def connect_store(address: str) -> Store:
    """The store that another process hosts. Raises `RuntimeError` when nobody answers at `address`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return TCPStore(host, int(port), is_master=False, timeout=_WAIT)


class NetworkReducer(SharedReducer):
    """Like `SharedReducer`, bit for bit, but without shared memory."""

    shares_memory = False

    def __init__(self, rank: int, num_ranks: int, store: Store, *, host: str) -> None:
        """`host`: the address at which other ranks reach this machine."""
        self.rank, self.num_ranks = rank, num_ranks
        # Gloo reads the interface when the group is made and takes no argument for it.
        os.environ["GLOO_SOCKET_IFNAME"] = interface_of(host)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks, timeout=_WAIT)

    def unite(self, tensors: Sequence[Tensor]) -> None:
        del tensors

    def _exchange(self, mine_N: Tensor) -> Tensor:
        mine_N = mine_N.cpu()
        slab_RN = [torch.empty_like(mine_N) for _ in range(self.num_ranks)]
        dist.all_gather(slab_RN, mine_N)
        return torch.stack(slab_RN)


def interface_of(host: str) -> str:
    """The network interface with this address. Raises `OSError` if there is none."""
    wanted = socket.inet_aton(socket.gethostbyname(host))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))[20:24]
            except OSError:
                continue  # has no address
            if found == wanted:
                return name
    raise OSError(f"no network interface here has the address {host}")
