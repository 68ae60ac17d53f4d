"""Weights between machines: the learner's process serves its two newest versions, and samplers fetch the
version that they are told.

Only bytes travel: both sides know names, shapes and types, and compare their digest. The connection is not
encrypted; the secret prevents others from being served, not from listening.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from agito.weights.address import OverNetwork
from agito.weights.channel import EMPTY, require_newer, require_there, spans

_ASK = struct.Struct("<q32s32s")  # version, digest of the layout, secret
_ANSWER = struct.Struct("<q")  # the version that follows, or the newest that is there instead
_WAIT_S = 60.0  # for the next bytes
_SHARE = 1 << 22  # bytes per send


class ServedWeights:
    """The learner's side, a `WeightChannel`."""

    def __init__(self, like: Iterable[tuple[str, Tensor]], *, host: str) -> None:
        """`host`: the address at which others reach this machine."""
        self._spans, self._size = spans(like)
        self._layout, self._secret = layout(self._spans), secrets.token_bytes(32)
        self._newest, self._held = EMPTY, dict[int, Tensor]()
        self._socket = socket.create_server((host, 0))
        bound, port = self._socket.getsockname()[:2]
        self.address = OverNetwork(host=bound, port=port, secret=self._secret, num_bytes=self._size)
        self._thread = threading.Thread(target=self._serve, name="weights", daemon=True)
        self._thread.start()

    def push(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        require_newer(version, self._newest)
        memory = torch.empty(self._size, dtype=torch.uint8)
        slots = _slots(memory, self._spans)
        for name, tensor in weights:
            slots[name].copy_(tensor.detach())
        self._held = {number: held for number, held in self._held.items() if number == self._newest} | {
            version: memory
        }
        self._newest = version

    def pull(self, version: int) -> Mapping[str, Tensor]:
        require_there(version, version if version in self._held else self._newest)
        return _slots(self._held[version], self._spans)

    def close(self) -> None:
        """Stops serving. Idempotent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # else the thread waiting in `accept` takes one more
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(link,), name="weights", daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with link:
            link.settimeout(_WAIT_S)
            try:
                version, asked, secret = _ASK.unpack(received(link, _ASK.size))
                if not (hmac.compare_digest(secret, self._secret) and asked == self._layout):
                    return
                memory = self._held.get(version)
                link.sendall(_ANSWER.pack(self._newest if memory is None else version))
                if memory is not None:
                    link.sendall(memory.numpy().data)
            except (OSError, EOFError):
                return  # the client has left and will report it


class FetchedWeights:
    """A sampler's side, a `WeightChannel`."""

    def __init__(self, where: OverNetwork, like: Iterable[tuple[str, Tensor]]) -> None:
        """Raises `RuntimeError` when the learner's weights have another size."""
        self._where = where
        self._spans, size = spans(like)
        if where.num_bytes != size:
            raise RuntimeError(
                f"{where.host}: {where.num_bytes} bytes of weights, but this policy has {size}"
            )
        self._memory = torch.empty(size, dtype=torch.uint8)

    def push(self, version: int, weights: Iterable[tuple[str, Tensor]]) -> None:
        raise RuntimeError(f"version {version} is the learner's to push")

    def pull(self, version: int) -> Mapping[str, Tensor]:
        """Raises `RuntimeError` also when the learner cannot be reached."""
        where = self._where
        try:
            with socket.create_connection((where.host, where.port), timeout=_WAIT_S) as link:
                link.sendall(_ASK.pack(version, layout(self._spans), where.secret))
                require_there(version, _ANSWER.unpack(received(link, _ANSWER.size))[0])
                receive_into(link, self._memory.numpy().data)
        except (OSError, EOFError) as error:
            raise RuntimeError(
                f"weights of version {version} cannot be had from {where.host}:{where.port}: {error!r}"
            ) from error
        return _slots(self._memory, self._spans)


def layout(of: Mapping[str, tuple[int, int, Tensor]]) -> bytes:
    """A digest of names, offsets, shapes and types."""
    told = [
        (name, start, stop, tuple(tensor.shape), str(tensor.dtype))
        for name, (start, stop, tensor) in of.items()
    ]
    return hashlib.sha256(repr(told).encode()).digest()


def received(link: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    receive_into(link, memoryview(data))
    return bytes(data)


def receive_into(link: socket.socket, room: memoryview) -> None:
    while room:
        got = link.recv_into(room, min(len(room), _SHARE))
        if not got:
            raise EOFError("the other side has closed the connection")
        room = room[got:]


def _slots(memory: Tensor, of: Mapping[str, tuple[int, int, Tensor]]) -> dict[str, Tensor]:
    return {
        name: memory[start:stop].view(tensor.dtype).view(tensor.shape)
        for name, (start, stop, tensor) in of.items()
    }
