"""A slow link: a TCP proxy that lets through so many bits a second, in each direction."""

import asyncio
import threading
from contextlib import suppress
from types import TracebackType

_CHUNK = 4096  # bytes that pass at once: what a heartbeat may have to wait for, for each other connection
_BUFFER = 1 << 16  # bytes that may wait in the proxy and its sockets


class Link:
    """The link of one SuperNode; a context manager.

    All connections share its rate, chunk by chunk, and each direction has the whole of it. TLS passes through.

    Parameters
    ----------
    target : int
        Port of loopback where the other side listens.
    bits_per_second : float
        The rate.

    Attributes
    ----------
    port : int
        Where it listens.
    up, down : int
        Bytes that it carried to the target and back.
    """

    def __init__(self, target: int, bits_per_second: float) -> None:
        self._target = target
        self._up, self._down = _Bucket(bits_per_second / 8), _Bucket(bits_per_second / 8)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def up(self) -> int:
        """Bytes to the target."""
        return self._up.carried

    @property
    def down(self) -> int:
        """Bytes from the target."""
        return self._down.carried

    def __enter__(self) -> "Link":
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port: int = server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connect, "127.0.0.1", 0, limit=_BUFFER)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target, limit=_BUFFER)
            await asyncio.gather(_carry(reader, back, self._up), _carry(there, writer, self._down))


class _Bucket:
    """Lets bytes through at a rate, first come, first served."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0  # the loop's time at which the link has sent all that it was given
        self.carried = 0

    async def take(self, size: int) -> None:
        """Wait until the link has sent so many bytes more."""
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + size / self._rate
        self.carried += size
        await asyncio.sleep(self._free_at - loop.time())


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: _Bucket) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            await bucket.take(len(chunk))
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
