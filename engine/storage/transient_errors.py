"""Transient errors of a filesystem's driver: the same call may succeed later."""

import errno

from engine.storage.s3 import BucketMissingError


def is_transient(error: BaseException) -> bool:
    """Say whether an error of a store's driver is transient: the store did not answer this time."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING) and error.errno not in _LASTING_NUMBERS
    # Clients of object stores raise these, which are no OSErrors; none of them need be installed.
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return not kinds.isdisjoint(_UNANSWERED)


_LASTING = (
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError),
    PermissionError,
    BucketMissingError,
)
_LASTING_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}
"""Errors that a second try would meet again."""

_UNANSWERED = {
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "urllib3.exceptions.HTTPError",
}


def is_transient_while_parsing(error: BaseException) -> bool:
    """Say whether an error raised while a file was parsed is a transient one of its filesystem.

    A parser of a damaged file raises plain OSErrors as well: it seeks to wherever the damaged
    numbers point. Those are not transient.
    """
    damage = type(error) is OSError and error.errno in (None, errno.EINVAL, errno.EOVERFLOW)
    return is_transient(error) and not damage
