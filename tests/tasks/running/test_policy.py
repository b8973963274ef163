"""What is retried: a store that does not answer, never a wrong number."""

import asyncio
import errno

import aiohttp
import botocore.exceptions
import pytest
import torch
from prefect import task
from prefect.states import exception_to_failed_state

from engine.errors import (
    CheckpointCorruptError,
    ConfigurationError,
    NonFiniteError,
    StoreError,
    StoreUnavailableError,
)
from tasks.running.policy import is_transient


@task
def some_task():
    """Stands for any task: the condition looks at the state only."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("reset"), True),
        (TimeoutError("slow"), True),
        (StoreError("503"), True),
        (StoreUnavailableError("read-only"), False),
        (CheckpointCorruptError("bit flip"), False),
        (ConfigurationError("arity"), False),
        (NonFiniteError("NaN"), False),
        (ValueError("bug"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError("no write access"), False),
        (FileNotFoundError("no such bucket"), False),
        (OSError("503 Slow Down"), True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"), True),
        (botocore.exceptions.NoCredentialsError(), False),
        (aiohttp.ServerDisconnectedError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_only_what_may_pass_by_itself_is_tried_again(error, expected):
    """A NaN tried three times is the same NaN three times later."""
    state = asyncio.run(exception_to_failed_state(error))

    assert is_transient(some_task, None, state) is expected
