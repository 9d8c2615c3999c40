"""Several processes as one run: they wait for each other, and none outlives another.

JAX's own answer to a lost process is to abort the others, with a core dump, or to let them wait for
minutes; and it reports a lost connection like any fault of a trial. So the processes meet in a
`Hub`, on the port that the coordinator is said to have, before JAX starts. Each holds a connection
to it, and ends itself, wherever it is, when the hub says so or falls silent. JAX's coordination
service listens on a port of process 0's own; the others reach it through a tunnel that stays open
when process 0 is lost, since JAX aborts when that connection ends.
"""

import asyncio
import contextlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NoReturn

import jax

from squeeze_jax.errors import UserError
from squeeze_jax.study.host_hub import (
    AGAIN,
    FIRST_NOTE,
    Hub,
    Patience,
    Place,
    connected,
    missing,
    received,
    relay,
    send,
)
from squeeze_jax.train import Interrupted

Describe = Callable[[BaseException], tuple[str, int] | None]


def find_place(coordinator: str | None, processes: int | None, index: int | None) -> Place:
    """Returns this process's place among those of a run.

    Args:
      coordinator: host:port of the first process.
      processes: how many there are.
      index: which of them this one is.

    Whatever is None is found where JAX knows the cluster: Cloud TPU, Slurm, GKE, Open MPI.

    Raises:
      UserError: it is not found, or makes no sense.
    """
    # Private, but jax.distributed.initialize tells nobody what it finds.
    from jax._src.clusters import ClusterEnv

    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is None or processes is None or index is None:
        coordinator, processes, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, processes, index, None, None, 300
        )
    if coordinator is None or processes is None or index is None:
        raise UserError(
            "--distributed finds no cluster here; "
            "give --coordinator HOST:PORT, --processes N and --process-id I"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--coordinator is HOST:PORT of the first process; got {coordinator}")
    if not 0 <= index < processes:
        raise UserError(f"--process-id is from 0 to {processes - 1}; got {index}")
    return Place(host.strip("[]"), int(port), processes, index)


@contextlib.contextmanager
def joined(
    place: Place, patience: Patience, description: Mapping[str, str], describe: Describe
) -> Iterator["Hosts"]:
    """Initializes JAX as one of several processes, once all have come; leaves with all of them.

    Where one is lost, fails alone or differs, every process prints the line that says so, and ends
    without returning. An exception that leaves the context is printed, and ends the process too.

    Args:
      place: this process's.
      patience: how long to wait for the others.
      description: what this process runs, by name; all must run the same.
      describe: returns the line and the exit code of an exception that the user can mend.

    Raises:
      UserError: process 0 cannot listen on its port.
      Interrupted: all were asked to stop; everything is saved.
    """
    hosts = Hosts(place, patience, describe)
    hosts.start(description)
    try:
        yield hosts
    except Interrupted:
        hosts.leave()
        raise
    except BaseException as e:
        hosts.fail(e)
    hosts.leave()


class Hosts:
    """This process's part in a run of several: a thread that holds the connection to the hub."""

    def __init__(self, place: Place, patience: Patience, describe: Describe):
        self._place, self._patience, self._describe = place, patience, describe
        self._loop = asyncio.new_event_loop()
        self._ready: Future[int] = Future()  # the local port of JAX's coordination service
        self._verdict: Future[str] = Future()  # why the run ends, if it does
        self._meetings: dict[str, Future[None]] = {"trained": Future(), "end": Future()}
        self._asking = threading.Lock()  # holds for the three below
        self._asked, self._told, self._is_agreeing = 0, False, False
        self._stop: Future[tuple[int, int]] = Future()  # which time of asking, and the signal
        self._writer: asyncio.StreamWriter | None = None
        self._service_port = 0
        self._missed = 0  # beats
        self._reason, self._leaving = "", False

    def start(self, description: Mapping[str, str]) -> None:
        """Waits for all processes and initializes JAX; see `joined`."""
        threading.Thread(target=self._run, args=(description,), daemon=True).start()
        address = f"127.0.0.1:{self._ready.result()}"
        jax.config.update("jax_enable_preemption_service", False)  # see `agree_to_stop`
        jax.distributed.initialize(
            address,
            self._place.processes,
            self._place.index,
            coordinator_bind_address=address,
            # JAX aborts on what it finds itself: it must not be the first.
            heartbeat_timeout_seconds=round(10 * self._patience.silence) + 60,
        )

    def confirm(self, error: BaseException) -> None:
        """Returns where every process raises the same; it is then a fault of what they run.

        Raises:
          BaseException: the error itself, where this process alone has it. Where another process is
            lost, this one ends.
        """
        line, code = self._describe(error) or (_one_line(error), AGAIN)
        self._verdict = Future()
        self._say(raised=line, code=code)
        self._reason = self._verdict.result()
        if self._reason:
            raise error

    def agree_to_stop(self, signum: int | None) -> int | None:
        """Returns the signal at which all processes stop here, or None; see `interruptible`.

        All ask at the same places, so the number of times tells the place.

        Args:
          signum: the signal that this process received, if any.
        """
        # Not JAX's preemption service: that holds Python's lock while it waits for the others,
        # whose answers come through the tunnel.
        with self._asking:
            self._asked += 1
            if signum is not None and not self._told:
                self._told = True
                self._say(stop=signum)
            if not self._is_agreeing:
                return None
        place, agreed_signal = self._stop.result()
        return agreed_signal if self._asked >= place else None

    def fail(self, error: BaseException) -> NoReturn:
        """Prints an exception and ends the process, and the others where it is this one's alone."""
        if not self._reason:
            with contextlib.suppress(BaseException):
                self.confirm(error)
                self._meet("end")
        if described := self._describe(error):
            _exit(*described)
        traceback.print_exception(error)
        _exit(self._reason, AGAIN if self._reason else 1)

    def leave(self) -> None:
        """Waits until all have finished, and shuts down JAX's part."""
        self._meet("trained")
        jax.distributed.shutdown()
        self._meet("end")  # the service of process 0 is needed until then

    def _meet(self, name: str) -> None:
        self._leaving = name == "end"
        self._say(meet=name)
        self._meetings[name].result()

    def _say(self, **message: Any) -> None:
        if (writer := self._writer) is not None:
            self._loop.call_soon_threadsafe(lambda: send(writer, **message))

    def _run(self, description: Mapping[str, str]) -> None:
        try:
            self._loop.run_until_complete(self._attend(description))
        except BaseException:
            traceback.print_exc()
            _exit("", AGAIN)  # the others must not wait for this one

    async def _attend(self, description: Mapping[str, str]) -> None:
        """Holds the connection to the hub until the run ends; keeps to what the hub says."""
        place, loop = self._place, asyncio.get_running_loop()
        tasks = [loop.create_task(self._beat())]
        if place.index == 0:
            self._service_port = _free_port()
            hub = Hub(place, self._patience, self._service_port)
            try:
                await hub.listen(description)
            except OSError as e:
                error = UserError(f"cannot listen on port {place.port}: {e.strerror}")
                return self._ready.set_exception(error)
            tasks.append(loop.create_task(hub.watch()))
        else:
            server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
            self._service_port = server.sockets[0].getsockname()[1]
        hello = {
            "process": place.index,
            "host": socket.gethostname(),
            "description": {**description, "--processes": str(place.processes)},
        }
        deadline = loop.time() + self._patience.join
        while not self._ready.done():  # what ends before all have come may come again
            reader, writer = await self._connect(deadline - loop.time())
            send(writer, **hello)
            self._writer, self._missed = writer, 0
            async for message in received(reader):
                self._missed = 0
                self._obey(message)
            await asyncio.sleep(0.2)
        if not self._leaving:
            self._lose("it has ended, or its connection broke")
        elif not (met := self._meetings["end"]).done():
            met.set_result(None)  # process 0 would not have left before all had come there

    async def _connect(self, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Returns a connection to the hub; ends the process where there is none in time."""
        note = self._loop.call_later(FIRST_NOTE, self._tell_awaited, [0])
        try:
            return await connected(self._hub_host, self._place.port, seconds)
        except OSError:
            _exit(missing(self._place, [0], self._patience.join), AGAIN)
        finally:
            note.cancel()

    @property
    def _hub_host(self) -> str:
        return self._place.host if self._place.index else "127.0.0.1"

    def _obey(self, message: Mapping[str, Any]) -> None:
        if "awaited" in message:
            self._tell_awaited(message["awaited"])
        elif "go" in message:
            self._ready.set_result(self._service_port)
        elif "count" in message:
            with self._asking:
                self._is_agreeing = True
                self._say(counted=self._asked)
        elif "stop_at" in message:
            self._stop.set_result((message["stop_at"], message["signal"]))
        elif "agreed" in message:
            self._verdict.set_result("")
        elif "met" in message:
            self._meetings[message["met"]].set_result(None)
        elif "end" in message:
            if message.get("by") != self._place.index:
                _exit(message["end"], message["code"])
            self._verdict.set_result(message["end"])

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._patience.beat)
            if self._writer is not None:
                send(self._writer, beat=True)
                self._missed += 1
            if self._missed * self._patience.beat > self._patience.silence:
                self._lose(f"no sign of life for {self._patience.silence:.0f} s")

    def _lose(self, how: str) -> None:
        """Ends the process since process 0 is lost."""
        who = self._place.name(0, self._place.host)
        _exit(f"lost {who}: {how}; {self._place.restart}", AGAIN)

    def _tell_awaited(self, awaited: list[int]) -> None:
        who = ", ".join(self._place.name(index) for index in awaited)
        print(
            f"waiting for {who} to come to {self._place.host}:{self._place.port}, "
            f"{self._patience.join:.0f} s at most",
            file=sys.stderr,
            flush=True,
        )

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leads a connection of JAX's client to the service in process 0."""
        with contextlib.suppress(OSError):
            from_hub, to_hub = await connected(self._hub_host, self._place.port)
            send(to_hub, tunnel=True)
            await relay(reader, to_hub, from_hub, writer, keep_open=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _exit(line: str, code: int) -> NoReturn:
    """Prints a line and ends the process where it is: its main thread may hang in a collective."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        if line:
            print(("\n" if sys.stderr.isatty() else "") + line, file=sys.stderr, flush=True)
    os._exit(code)
