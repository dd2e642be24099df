"""The bridge to IRC, over a real server."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from bots import demo
from bots.demo import Hall

from ...waiting import PATIENCE, until

NGIRCD = shutil.which("ngircd") or shutil.which("/usr/sbin/ngircd")


def test_h17_the_bridge_is_at_most_forty_lines() -> None:
    lines = (Path(demo.__file__).parent / "irc.py").read_text().splitlines()
    code = [line for line in lines[1:] if line.strip() and not line.startswith(("import ", "from "))]
    assert len(code) <= 40, "without its first sentence and its imports"


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    if NGIRCD is None:
        pytest.skip("ngircd is not installed: make tools")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    configuration = tmp_path / "ngircd.conf"
    configuration.write_text(
        f"[Global]\nName = irc.hall.test\nInfo = The hall\nListen = 127.0.0.1\nPorts = {port}\n"
        "[Options]\nPAM = no\nDNS = no\nIdent = no\nChrootDir =\n[Limits]\nMaxConnectionsIP = 0\n"
    )
    server = subprocess.Popen([NGIRCD, "-n", "-f", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), "ngircd to listen")
        yield port
    finally:
        server.terminate()
        server.wait()


@contextlib.asynccontextmanager
async def person(port: int) -> AsyncGenerator["Person"]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"NICK ada\r\nUSER ada 0 * :Ada\r\n")
    someone = Person(reader, writer)
    await someone.hear(" 001 ada")
    someone.say("JOIN #haum")
    await someone.hear(" 366 ada")
    yield someone
    writer.close()


class Person:
    """Somebody in the channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, text: str) -> None:
        self._writer.write(f"{text}\r\n".encode())

    async def hear(self, words: str) -> str:
        """Return the next line with these words."""
        async with asyncio.timeout(PATIENCE):
            while words not in (line := (await self._reader.readline()).decode()):
                assert line, "the server hung up"
                if line.startswith("PING"):
                    self.say(f"PONG{line[4:].rstrip()}")
        return line


async def test_h17_what_is_said_on_irc_and_in_the_hall_is_heard_in_both(port: int, tmp_path: Path) -> None:
    (folder := tmp_path / "hall").mkdir()
    with Hall(folder) as hall:
        hall.start_all()
        async with person(port) as ada:
            hall.start_bot("irc", "127.0.0.1", str(port), "#haum")
            await ada.hear("JOIN :#haum")
            await asyncio.to_thread(until, lambda: "irc:irc" in hall.followers(), "the bridge to listen in the hall")
            ada.say("PRIVMSG #haum :hello, nobody")
            ada.say("PRIVMSG #haum :!nonsense that no bot knows")
            ada.say("PRIVMSG #haum :!ping")
            assert '"type": "answer"' in await ada.hear("PRIVMSG #haum :ping")
            await asyncio.to_thread(hall.say, "agenda", "add", "title=Æ¢V→−≠É", "location=Le Mans")
            assert "Æ¢V→−≠É" in await ada.hear("PRIVMSG #haum :agenda.answer")
            assert await asyncio.to_thread(hall.stop, "irc") == 0
            await ada.hear("QUIT")
            await asyncio.to_thread(hall.say, "ping")
            await asyncio.to_thread(
                until, lambda: sum(body["type"] == "answer" for body in hall.heard("ping")) == 2, "the ping bot to answer"
            )
            hall.start_bot("irc", "127.0.0.1", str(port), "#haum")
            assert "console" in await ada.hear("PRIVMSG #haum :ping"), "what was said while the bridge was away"
