"""The HTTP session with which S3 is talked to: no request waits for ever.

Before it sends an object, botocore asks the server whether it may (``Expect: 100-continue``), and
aiohttp waits for that answer, as for room for a body, without any limit: its time-outs begin when
the body is sent. A server that falls silent at that moment, or a network that loses its packets,
would stop a run for good.
"""

import asyncio
import importlib.util
from functools import lru_cache
from typing import Any

import fsspec.config

ANSWER_SECONDS = 300.0
"""Longest wait from a request to the head of its answer; 32 MiB at 0.1 MB/s."""


def use_patient_session() -> None:
    """Let every S3 filesystem that this process opens from now on use the session.

    A session that is configured already stays. Without the driver nothing happens.
    """
    if importlib.util.find_spec("aiobotocore") is None:
        return
    settings = fsspec.config.conf.setdefault("s3", {})
    settings.setdefault("config_kwargs", {}).setdefault("http_session_cls", _session_class())


@lru_cache(maxsize=1)
def _session_class() -> type[Any]:
    from aiobotocore.httpsession import AIOHTTPSession
    from botocore.exceptions import ReadTimeoutError

    class PatientSession(AIOHTTPSession):
        """Sends bodies unasked, and gives up after ``ANSWER_SECONDS``, as after a time-out."""

        async def send(self, request: Any) -> Any:  # noqa: ANN401 (botocore's request and response)
            if "Expect" in request.headers:
                del request.headers["Expect"]  # it is not among the headers that are signed
            try:
                return await asyncio.wait_for(super().send(request), ANSWER_SECONDS)
            except TimeoutError as error:
                raise ReadTimeoutError(endpoint_url=request.url, error=error) from error

    return PatientSession
