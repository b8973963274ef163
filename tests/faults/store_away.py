"""Fault: the S3 server is away for a while in mid-run.

A proxy before it refuses connections, answers 503 or says nothing, from a random request on. Every
stage is tried again as long as the tasks' policy calls its error transient. The run must complete
with the bits of an undisturbed one, compute at most one stage again for each such error, and raise
nothing but transient errors. ``python -m tests.faults --row s3-away`` tries it; the server is away
for 20 s in every tenth trial from the first on, and for 1 to 4 s in the others.
"""

import logging
import os
import random
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tasks.running.policy import is_transient
from tests.faults import chain

KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
HOW = ["refuses", "answers 503", "says nothing"]
ANSWER = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PATIENCE = 1800
"""Seconds for which a stage is tried again: so long that a busy machine cannot fail a trial."""
BLOCKS = 700
"""Blocks of bytes that an undisturbed run sends, at least; it is away from one of them on."""


class Trial(NamedTuple):
    """What became of one run whose store was away."""

    number: int
    """Of the trial."""

    how: str
    """What the server did."""

    seconds: float
    """For how long."""

    request: int
    """Connection or block of bytes from which on it was away."""

    errors: list[str]
    """Types of the errors that stages ended with."""

    transient: bool
    """Whether the tasks' policy tries again after each of them."""

    again: int
    """Stages that were computed more than once; at most one for each error."""

    same_bits: bool
    """Whether references and all numbers are those of the undisturbed run."""

    @property
    def holds(self):
        """Whether the run completed, with nothing lost."""
        return self.transient and self.same_bits and self.again <= len(self.errors)


class Ended(NamedTuple):
    """A task run's final state, as far as the policy looks at it."""

    error: BaseException

    def result(self, *, raise_on_failure):
        """Return the error, as Prefect's states do."""
        return self.error


class Proxy:
    """Hands connections on to a server, and can behave as if it were away."""

    def __init__(self, server):
        self.server, self.passed, self.plan = server, 0, None
        self.until, self.lock = 0.0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fail_after(self, passed, how, seconds):
        """Be away for some seconds after so many more blocks of bytes have passed."""
        with self.lock:
            self.passed, self.plan = 0, (passed, how, seconds)

    def _away(self):
        """Count a block; return how the server is away now, or None."""
        with self.lock:
            self.passed += 1
            if self.plan is None or self.passed < self.plan[0]:
                return None
            if not self.until:
                self.until = time.monotonic() + self.plan[2]
            if time.monotonic() < self.until:
                return self.plan[1]
            self.plan, self.until = None, 0.0
            return None

    def _accept(self):
        with suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with (
            client,
            suppress(OSError),
            socket.create_connection(self.server) as server,
            _end(server),
        ):
            back = threading.Thread(target=self._answer, args=(server, client), daemon=True)
            back.start()
            while block := client.recv(65536):
                how = self._away()
                if how == "refuses":
                    # Reset, as a machine does on which nobody listens any more.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                if how == "answers 503":
                    client.sendall(ANSWER)
                    return
                if how is None:
                    server.sendall(block)

    @staticmethod
    def _answer(server, client):
        with suppress(OSError):
            while block := server.recv(65536):
                client.sendall(block)

    def close(self):
        """Listen no more."""
        self.listener.close()


@contextmanager
def _end(server):
    """Let both sides know that a connection is over: its other thread waits for bytes."""
    try:
        yield
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@contextmanager
def s3():
    """Serve a bucket behind a proxy, found through the environment; yield the proxy."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port())
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    before = dict(os.environ)
    os.environ |= {**KEYS, "AWS_ENDPOINT_URL": proxy.address}
    driver = fsspec.get_filesystem_class("s3")
    driver.clear_instance_cache()  # those that there are know another address
    # As patient as it need be to see both what the driver bridges and what reaches the engine.
    fsspec.config.conf["s3"] = {
        "config_kwargs": {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
    }
    try:
        with suppress(FileExistsError):  # one process has one memory of objects
            fsspec.filesystem("s3").mkdir("faults")
        yield proxy
    finally:
        fsspec.config.conf.pop("s3")
        driver.clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)
        proxy.close()
        server.stop()


def persistent(errors):
    """Return a way to carry out stages that tries again after transient errors, and keeps them."""

    def call(stage, *arguments):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return stage(*arguments)
            except Exception as error:
                errors.append(error)
                if not is_transient(None, None, Ended(error)) or time.monotonic() > end:
                    raise
                time.sleep(0.5)

    return call


def once(number, proxy, store, refs, numbers, draw):
    """Carry out a run while the server goes away and comes back."""
    how, request = draw.choice(HOW), draw.randrange(1, BLOCKS)
    seconds = 20.0 if number % 10 == 1 else draw.uniform(1, 4)
    errors = []
    proxy.fail_after(request, how, seconds)
    with chain.counted() as computed:
        try:
            found = chain.run(store, persistent(errors))
        except Exception as error:
            found = [type(error).__name__]
    proxy.fail_after(10**9, how, 0)
    return Trial(
        number=number,
        how=how,
        seconds=seconds,
        request=request,
        errors=[f"{type(error).__name__}: {error}"[:120] for error in errors],
        transient=all(is_transient(None, None, Ended(error)) for error in errors),
        again=len(computed) - len(set(computed)),
        same_bits=found == refs and chain.is_same(chain.content(store, found), numbers),
    )


def trials(folder, count, seed=0):
    """Yield trials, all on one server."""
    draw = random.Random(seed)
    refs = chain.run(folder / "undisturbed")
    numbers = chain.content(folder / "undisturbed", refs)
    with s3() as proxy:
        for number in range(1, count + 1):
            yield once(number, proxy, f"s3://faults/{folder.name}-{number}", refs, numbers, draw)
