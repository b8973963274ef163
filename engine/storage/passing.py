"""Which errors of a filesystem's driver may pass by themselves, and which stay."""

import errno


def is_passing(error: BaseException) -> bool:
    """Say whether what a store's driver raised may pass by itself: it gave no answer just now."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING) and error.errno not in _LASTING_NUMBERS
    # Clients of object stores raise these, which are no OSErrors; none of them need be installed.
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return not kinds.isdisjoint(_UNANSWERED)


_LASTING = (
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError),
    PermissionError,
)
_LASTING_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}
"""What is still there in a minute."""

_UNANSWERED = {
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "urllib3.exceptions.HTTPError",
}


def is_no_answer(error: BaseException) -> bool:
    """Say whether an error while a file was parsed came from its filesystem, and may pass.

    Parsers raise plain OSErrors too, and seek to where a damaged file sends them.
    """
    damage = type(error) is OSError and error.errno in (None, errno.EINVAL, errno.EOVERFLOW)
    return is_passing(error) and not damage
