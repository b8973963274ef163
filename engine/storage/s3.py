"""The HTTP session with which S3 is talked to: no request waits for ever.

Before it sends an object, botocore asks the server whether it may (``Expect: 100-continue``), and
aiohttp waits for that answer, as for room for a body, without any limit: its time-outs begin when
the body is sent. A server that falls silent at that moment, or a network that loses its packets,
would stop a run for good.

A bucket that is not there is an error of its own. The driver tells of it as of an object that is
not there, which to whoever reads a store means that nothing was written yet.
"""

import asyncio
import importlib.util
from functools import lru_cache
from typing import Any

import fsspec.config

ANSWER_SECONDS = 300.0
"""Longest wait from a request to the head of its answer; 32 MiB at 0.1 MB/s."""


class BucketMissingError(OSError):
    """The bucket of an object does not exist, or does not any more."""


def use_patient_session() -> None:
    """Let every S3 filesystem that this process opens from now on use the session.

    A session that is configured already stays. Without the driver nothing happens. A bucket that
    is missing raises ``BucketMissingError`` from then on.
    """
    if importlib.util.find_spec("aiobotocore") is None or importlib.util.find_spec("s3fs") is None:
        return
    from s3fs import errors

    errors.ERROR_CODE_TO_EXCEPTION["NoSuchBucket"] = BucketMissingError
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
