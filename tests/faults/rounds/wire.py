"""A way to a server that can be cut, and that can fall silent without a word to either side."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

_READ = 1 << 18


class _Pair:
    """One connection through the wire; while it is silent, what comes from either side is swallowed."""

    def __init__(self) -> None:
        self.is_silent = False
        self.ends: list[asyncio.StreamWriter] = []

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction until it ends; the end of one that is silent is told to nobody."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ):
                if not self.is_silent:
                    writer.write(data)
                    await writer.drain()
        if self.is_silent:
            await asyncio.Event().wait()

    def abort(self) -> None:
        """Reset both ends."""
        for end in self.ends:
            end.transport.abort()


class Wire:
    """Listens on a port of its own, in a thread of its own, and carries what comes to another port."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._pairs: set[_Pair] = set()
        self._is_silent = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, back = await asyncio.open_connection(*self._there)
        except BaseException as error:  # also when the wire is closed meanwhile
            writer.transport.abort()
            if isinstance(error, OSError):
                return
            raise
        pair = _Pair()
        pair.is_silent = self._is_silent
        pair.ends = [writer, back]
        self._pairs.add(pair)
        pumps = [asyncio.ensure_future(pair.pump(reader, back)), asyncio.ensure_future(pair.pump(there, writer))]
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the wire is being closed
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            pair.abort()
            for pump in pumps:
                pump.cancel()

    def cut(self) -> None:
        """Reset all connections; new ones are carried."""
        self._each(_Pair.abort)

    def fall_silent(self) -> None:
        """Carry nothing more over the connections that there are, and say nothing of it; new ones are carried."""

        def silence(pair: _Pair) -> None:
            pair.is_silent = True

        self._each(silence)

    @contextmanager
    def silent(self) -> Generator[None]:
        """Do the same, and swallow what comes over new connections too until the end of the block."""
        self._is_silent = True
        self.fall_silent()
        try:
            yield
        finally:
            self._is_silent = False

    def _each(self, act: Callable[[_Pair], None]) -> None:
        async def all_of_them() -> None:
            for pair in list(self._pairs):
                act(pair)

        self._do(all_of_them())

    def close(self) -> None:
        """End it with all connections."""

        async def end() -> None:
            self._server.close()
            for _ in range(3):  # who was let in a moment ago is served by now, and ends with the others
                await asyncio.sleep(0)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # the ends that were reset are closed

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
