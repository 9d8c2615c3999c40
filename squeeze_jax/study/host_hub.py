"""Where the processes of one run meet: a server in the first that each is connected to.

Messages are lines of JSON. A process says who it is and what it runs, then sends a beat every
second; so does the server. Connections that begin with "tunnel" lead to JAX's coordination service.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

_LARGEST_MESSAGE = 1 << 24  # bytes
AGAIN = os.EX_TEMPFAIL  # the exit code that asks to be run again
_GRACE = 5.0  # seconds that the others are given to end
FIRST_NOTE, _NEXT_NOTES = 5.0, 60.0  # seconds between lines that say who is awaited


@dataclass(frozen=True)
class Place:
    """Which of a run's processes this one is, and where the first is found.

    Attributes:
      host, port: where process 0 listens.
      processes: how many there are.
      index: which one this is, from 0.
    """

    host: str
    port: int
    processes: int
    index: int

    def name(self, index: int, host: str = "") -> str:
        """Returns a process in words."""
        return f"process {index} of {self.processes}" + (f" (on {host})" if host else "")

    @property
    def restart(self) -> str:
        """Returns what to do after a loss, in words."""
        return (
            f"the trial under way stays pending; start all {self.processes} processes again "
            "to continue from the last checkpoint"
        )


@dataclass(frozen=True)
class Patience:
    """How long processes wait for each other.

    Attributes:
      join: seconds until all must have come.
      silence: seconds without a beat after which a process is lost.
    """

    join: float
    silence: float

    @property
    def beat(self) -> float:
        """Returns the seconds between two beats."""
        return min(1.0, self.silence / 10)


@dataclass
class _Member:
    """A connected process: its connection, its machine, and the beats that it missed."""

    writer: asyncio.StreamWriter
    host: str
    missed: int = 0


class Hub:
    """The server in process 0.

    It says when all have come, and ends all where one differs, is lost, or raises what the others
    do not. Time is counted in its own beats, so that after a pause of its machine it blames nobody.
    """

    def __init__(self, place: Place, patience: Patience, service_port: int):
        self._place, self._patience, self._service_port = place, patience, service_port
        self._members: dict[int, _Member] = {}
        self._description: dict[str, str] = {}
        self._raised: dict[int, dict[str, Any]] = {}  # in the order of their coming
        self._met: dict[str, set[int]] = {}
        self._signal: int | None = None  # that asks all to stop
        self._counts: dict[int, int] = {}  # how often each has asked whether to stop
        self._started, self._finished = False, False
        self._ending: asyncio.Task | None = None

    async def listen(self, description: Mapping[str, str]) -> None:
        """Opens the port.

        Args:
          description: what this process runs, by name; the others must run the same.

        Raises:
          OSError: the port is taken.
        """
        self._description = {**description, "--processes": str(self._place.processes)}
        self._server = await asyncio.start_server(
            self._accept, None, self._place.port, limit=_LARGEST_MESSAGE
        )

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match await anext(received(reader), None):
            case {"tunnel": True}:
                with contextlib.suppress(OSError):
                    await self._tunnel(reader, writer)
            case {"process": int(index), "host": str(host), "description": dict(description)}:
                await self._attend(index, _Member(writer, host), description, reader)
        writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_service, to_service = await connected("127.0.0.1", self._service_port)
        await relay(reader, to_service, from_service, writer)

    async def _attend(
        self,
        index: int,
        member: _Member,
        description: Mapping[str, str],
        reader: asyncio.StreamReader,
    ) -> None:
        """Listens to one process until its connection ends."""
        if index in self._members or self._started:
            line = f"error: {self._place.name(index)} is running already; give another --process-id"
            return send(member.writer, end=line, code=2)
        self._members[index] = member
        who = self._place.name(index, member.host)
        if differences := self._differences(description):
            line = f"error: {who} runs something else than process 0: {differences}"
            self._end(f"{line}; start all with the same command", 2)
        elif len(self._members) == self._place.processes:
            self._started = True
            self._broadcast(go=True)
        async for message in received(reader):
            member.missed = 0
            if "raised" in message:
                self._raised[index] = message | {"who": who}
                self._judge()
            elif "stop" in message and self._signal is None:
                self._signal = message["stop"]
                self._broadcast(count=True)
            elif "counted" in message:
                self._counts[index] = message["counted"]
                if len(self._counts) == self._place.processes:
                    # None has passed a later place; all come to this one.
                    self._broadcast(stop_at=max(self._counts.values()) + 1, signal=self._signal)
            elif "meet" in message:
                self._meet(index, message["meet"])
        if self._members.get(index) is member:
            del self._members[index]
            if self._started and not self._finished:
                self._lose(who, "it has ended, or its connection broke")

    def _differences(self, description: Mapping[str, str]) -> str:
        ours = self._description
        return "; ".join(
            f"{key} is {description.get(key, 'missing')}, not {ours.get(key, 'missing')}"
            for key in sorted({*ours, *description})
            if ours.get(key) != description.get(key)
        )

    def _judge(self) -> None:
        """Tells all to go on once all have raised the same, and ends them where they differ."""
        if len(self._raised) < self._place.processes:
            return
        if len({message["raised"] for message in self._raised.values()}) == 1:
            self._raised.clear()
            self._broadcast(agreed=True)
        else:
            self._end_by_exception()

    def _end_by_exception(self) -> None:
        index, message = next(iter(self._raised.items()))
        line, code = f"{message['who']} failed: {message['raised']}", message["code"]
        self._end(f"{line}; {self._place.restart}" if code == AGAIN else line, code, index)

    def _meet(self, index: int, name: str) -> None:
        """Lets all pass once all have come to the same place."""
        met = self._met.setdefault(name, set())
        met.add(index)
        if len(met) == self._place.processes:
            self._finished = name == "end"
            self._broadcast(met=name)

    def _lose(self, who: str, how: str) -> None:
        self._end(f"lost {who}: {how}; {self._place.restart}", AGAIN)

    def _end(self, line: str, code: int, by: int | None = None) -> None:
        """Ends all processes; what comes after the first reason to end follows from it."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_all(line, code, by))

    async def _end_all(self, line: str, code: int, by: int | None) -> None:
        """Ends the process of the hub last, since the others hear of it from here."""
        own = self._members.get(0)
        for index, member in self._members.items():
            if index:
                send(member.writer, end=line, code=code, by=by)
        waited = 0.0
        while any(self._members) and waited < _GRACE:
            await asyncio.sleep(0.05)
            waited += 0.05
        if own:
            send(own.writer, end=line, code=code, by=by)

    async def watch(self) -> None:
        """Sends the beats and counts those of the others; never returns."""
        beat, silence = self._patience.beat, self._patience.silence
        waited, next_note, raised = 0.0, FIRST_NOTE, 0.0
        while True:
            await asyncio.sleep(beat)
            self._broadcast(beat=True)
            if not self._started and self._ending is None:
                waited += beat
                awaited = sorted({*range(self._place.processes)} - {*self._members})
                if waited > self._patience.join:
                    self._end(missing(self._place, awaited, self._patience.join), AGAIN)
                elif waited >= next_note:
                    next_note += _NEXT_NOTES
                    self._broadcast(awaited=awaited)
            raised = raised + beat if self._raised else 0.0
            if raised > silence:  # the others are alive, and would have raised it
                self._end_by_exception()
            for index, member in list(self._members.items()):
                member.missed += 1
                if member.missed * beat > silence and self._started and not self._finished:
                    del self._members[index]
                    self._lose(
                        self._place.name(index, member.host), f"no sign of life for {silence:.0f} s"
                    )

    def _broadcast(self, **message: Any) -> None:
        for member in self._members.values():
            send(member.writer, **message)


def missing(place: Place, awaited: list[int], seconds: float) -> str:
    """Returns the line that says who did not come."""
    who = ", ".join(place.name(index) for index in awaited)
    return (
        f"{who} did not come to {place.host}:{place.port} within {seconds:.0f} s; "
        f"start all {place.processes} processes again, or with a larger --join-timeout"
    )


def send(writer: asyncio.StreamWriter, **message: Any) -> None:
    """Sends a message, without waiting; a connection that has ended takes none."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


async def received(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yields the messages of a connection until it ends, or says what is no message."""
    with contextlib.suppress(OSError, ValueError):
        while line := await reader.readline():
            yield json.loads(line)


async def connected(
    host: str, port: int, seconds: float = 60.0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Returns a connection; tries until somebody listens there.

    Raises:
      OSError: nobody does within so many seconds.
    """
    waited = 0.0
    while True:
        try:
            async with asyncio.timeout(5.0):
                return await asyncio.open_connection(host, port, limit=_LARGEST_MESSAGE)
        except OSError:
            if waited >= seconds:
                raise
        await asyncio.sleep(0.2)
        waited += 0.2


async def relay(
    near_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    near_writer: asyncio.StreamWriter,
    keep_open: bool = False,
) -> None:
    """Copies what each end of a tunnel sends to the other, until one closes it; then closes both.

    Args:
      near_reader: what the near end sends, and so on.
      far_writer: to the far end.
      far_reader: from the far end.
      near_writer: to the near end.
      keep_open: the near end does not learn that the far one closed, even when it sends more.
    """
    up = asyncio.create_task(_copy(near_reader, far_writer))
    down = asyncio.create_task(_copy(far_reader, near_writer))
    try:
        if keep_open:
            await up
            while await near_reader.read(1 << 16):  # the far end is gone; nobody hears this
                pass
        else:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        for writer in (far_writer, near_writer):
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
