"""The hub lets processes start together, agree, and end together; here they are connections."""

import asyncio
import contextlib
import dataclasses
import json

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.study.host_hub import Hub, Patience, Place, relay
from squeeze_jax.study.hosts import find_place
from tests.test_processes import free_port

PATIENCE = Patience(join=30.0, silence=30.0)
CONFIG = {"--config.seed": "0"}


class Visitor:
    """A process of two, as the hub sees it."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def say(self, **message) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def hears(self) -> dict | None:
        """The next message that is no beat; None where the connection ends."""
        while line := await asyncio.wait_for(self.reader.readline(), 20):
            if "beat" not in (message := json.loads(line)):
                return message
        return None


async def come(place: Place, index: int, processes: str = "2", **description: str) -> Visitor:
    """Connects to the hub as a process."""
    visitor = Visitor(*await asyncio.open_connection("127.0.0.1", place.port))
    described = {**CONFIG, "--processes": processes, **description}
    visitor.say(process=index, host=f"h{index}", description=described)
    return visitor


@contextlib.asynccontextmanager
async def opened(patience: Patience = PATIENCE):
    """A hub that listens; yields its place."""
    place = Place("127.0.0.1", free_port(), 2, 0)
    hub = Hub(place, patience, service_port=0)
    await hub.listen(CONFIG)
    watch = asyncio.create_task(hub.watch())
    try:
        yield place
    finally:
        watch.cancel()


async def started(place: Place) -> tuple[Visitor, Visitor]:
    """Two processes that have come."""
    first, second = await come(place, 0), await come(place, 1)
    assert await first.hears() == await second.hears() == {"go": True}
    return first, second


def test_exception_of_all_is_the_trials():
    """They go on, and may agree again."""

    async def scenario():
        async with opened() as place:
            both = await started(place)
            for text in ("ValueError: a", "ValueError: b"):
                for visitor in both:
                    visitor.say(raised=text, code=75)
                assert [await visitor.hears() for visitor in both] == [{"agreed": True}] * 2

    asyncio.run(scenario())


@pytest.mark.parametrize("code, advice", [(75, True), (2, False)])
def test_exception_of_one_ends_all(code, advice):
    """After a while in which the others do not raise it; at once where they raise another."""

    async def scenario():
        async with opened(dataclasses.replace(PATIENCE, silence=0.5)) as place:
            first, second = await started(place)
            beats = asyncio.create_task(beat(first, second))
            second.say(raised="ValueError: a", code=code)
            end = await second.hears()
            assert end["by"] == 1 and end["code"] == code
            assert end["end"].startswith("process 1 of 2 (on h1) failed: ValueError: a")
            assert ("start all 2 processes again" in end["end"]) is advice
            second.writer.close()
            assert await first.hears() == end
            beats.cancel()
        async with opened() as place:
            first, second = await started(place)
            first.say(raised="ValueError: b", code=code)
            await asyncio.sleep(0.1)
            second.say(raised="ValueError: a", code=code)
            assert (await second.hears())["end"].startswith("process 0 of 2 (on h0) failed")

    asyncio.run(scenario())


async def beat(*visitors: Visitor) -> None:
    """Keeps them alive."""
    while True:
        await asyncio.sleep(0.05)
        for visitor in visitors:
            visitor.say(beat=True)


def test_stop_where_nobody_has_passed():
    """The signal of one is all's, at the place after the last that any has asked at; only once."""

    async def scenario():
        async with opened() as place:
            both = first, second = await started(place)
            second.say(stop=15)
            assert [await visitor.hears() for visitor in both] == [{"count": True}] * 2
            first.say(stop=2)
            first.say(counted=7)
            second.say(counted=8)
            assert [await visitor.hears() for visitor in both] == [{"stop_at": 9, "signal": 15}] * 2

    asyncio.run(scenario())


def test_lost_process_ends_the_others():
    """One that closes its connection, and one that falls silent."""

    async def scenario():
        async with opened() as place:
            first, second = await started(place)
            second.writer.close()
            end = await first.hears()
            assert end["code"] == 75 and end["end"].startswith(
                "lost process 1 of 2 (on h1): it has"
            )
        async with opened(dataclasses.replace(PATIENCE, silence=0.5)) as place:
            first, second = await started(place)
            beats = asyncio.create_task(beat(first))
            end = await first.hears()
            assert end["code"] == 75 and "lost process 1 of 2 (on h1): no sign of" in end["end"]
            beats.cancel()

    asyncio.run(scenario())


@pytest.mark.slow
def test_process_that_never_comes():
    """The one that is there learns who is missing; one that goes before the start may come back."""

    async def scenario():
        async with opened(dataclasses.replace(PATIENCE, join=1.0)) as place:
            (await come(place, 1)).writer.close()
            await asyncio.sleep(0.1)
            end = await (await come(place, 0)).hears()
            assert end["code"] == 75
            assert end["end"].startswith(f"process 1 of 2 did not come to 127.0.0.1:{place.port}")
        async with opened() as place:
            (await come(place, 1)).writer.close()
            await asyncio.sleep(0.1)
            await started(place)

    asyncio.run(scenario())


def test_other_config_is_refused():
    """In all processes, with the difference; so is another number of processes."""

    async def scenario():
        for changed, difference in (
            ({"--config.seed": "1"}, "--config.seed is 1, not 0"),
            ({"processes": "3"}, "--processes is 3, not 2"),
            ({"extra": "x"}, "extra is x, not missing"),
        ):
            async with opened() as place:
                first = await come(place, 0)
                second = await come(place, 1, **changed)
                end = await second.hears()
                assert end["code"] == 2 and f"process 0: {difference}; start all" in end["end"]
                second.writer.close()
                assert await first.hears() == end

    asyncio.run(scenario())


def test_strangers_change_nothing():
    """Neither a line that is no message, nor a second process of the same place."""

    async def scenario():
        async with opened() as place:
            first = await come(place, 0)
            for line in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"process": "x"}\n', b"\xff\n"):
                stranger = Visitor(*await asyncio.open_connection("127.0.0.1", place.port))
                stranger.writer.write(line)
                assert await stranger.hears() is None
            again = await (await come(place, 0)).hears()
            assert again["code"] == 2 and "process 0 of 2 is running already" in again["end"]
            second = await come(place, 1)
            assert await first.hears() == await second.hears() == {"go": True}

    asyncio.run(scenario())


def test_tunnel_that_stays_open():
    """The near end may go on sending to a far end that was reset, and hears nothing of it.

    JAX's client aborts its process when its connection to the coordination service ends.
    """

    async def scenario():
        struck, closed = asyncio.Event(), asyncio.Event()

        async def strike(reader, writer):
            await reader.readexactly(1)
            writer.transport.abort()  # as the kernel does for a process that is killed
            struck.set()

        async def lead(reader, writer):
            far = await asyncio.open_connection("127.0.0.1", port(service))
            await relay(reader, far[1], far[0], writer, keep_open=True)
            closed.set()

        def port(server):
            return server.sockets[0].getsockname()[1]

        async with (
            await asyncio.start_server(strike, "127.0.0.1", 0) as service,
            await asyncio.start_server(lead, "127.0.0.1", 0) as tunnel,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port(tunnel))
            writer.write(b"a")
            await asyncio.wait_for(struck.wait(), 20)
            for _ in range(5):
                writer.write(b"heartbeat")
                await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.2)
            writer.close()
            await asyncio.wait_for(closed.wait(), 20)

    asyncio.run(scenario())


def test_all_leave_together():
    """Nobody passes a meeting before the last has come; after the end nobody is lost."""

    async def scenario():
        async with opened() as place:
            first, second = await started(place)
            for name in ("trained", "end"):
                second.say(meet=name)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(second.reader.readexactly(1 << 10), 0.2)
                first.say(meet=name)
                assert await first.hears() == await second.hears() == {"met": name}
            second.writer.close()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(first.hears(), 0.3)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "place, message",
    [
        ((None, None, None), "--distributed finds no cluster here; give --coordinator"),
        (("host", 2, 0), "--coordinator is HOST:PORT of the first process; got host"),
        (("host:99999", 2, 0), "--coordinator is HOST:PORT"),
        (("host:1234", 2, 2), "--process-id is from 0 to 1; got 2"),
    ],
)
def test_place_that_makes_no_sense(place, message, monkeypatch):
    """Says what to give."""
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(UserError, match=message):
        find_place(*place)


def test_place():
    """An IPv6 address has brackets in a flag only."""
    assert find_place("[::1]:1234", 2, 1) == Place("::1", 1234, 2, 1)
