"""Test whether a store can be read at all, before a command begins and with short patience."""

import os
from typing import Any

from engine.errors import EngineError, StoreError, StoreUnavailableError
from engine.secret_urls import redacted
from engine.storage.location import filesystem, is_local, store_errors
from engine.storage.s3 import use_patient_session

_PROTOCOLS_OF_S3 = ("s3://", "s3a://")

# One attempt and short waits: who only wants to look is to hear within seconds.
_IMPATIENT = {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}


def check_readable(url: str) -> None:
    """Refuse a store that does not answer, may not be read, or is a file; an absent one is empty.

    Raises:
        StoreError: If it is refused; names the reason.
    """
    options: dict[str, Any] = {}
    if url.startswith(_PROTOCOLS_OF_S3):
        use_patient_session()
        options = {"config_kwargs": _IMPATIENT}
    try:
        with store_errors(url):
            file_system, path = filesystem(url, options)
            file_system.ls(path, detail=False)
    except EngineError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        file_system, path = filesystem(url, options)
    except Exception as error:  # a driver's own: credentials, addresses, certificates
        raise StoreError(
            f"The store {url} cannot be read: {type(error).__name__}: {redacted(str(error))}. Name "
            "another one with --store URL, or correct what its driver reads from the environment."
        ) from error
    if not is_local(file_system):
        return
    place = path
    while not os.path.lexists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise StoreUnavailableError(
            f"{place} is a file, and a store is a folder. Name the store of your runs: --store URL."
        )
