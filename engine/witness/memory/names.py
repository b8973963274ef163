"""What the names in a function's code tell of where it writes."""

from collections.abc import Collection, Iterator
from dis import get_instructions
from functools import lru_cache
from types import CodeType, FunctionType

from engine.routine.module.reachable import LIBRARIES

_BY_ANY_NAME = frozenset(
    {"setattr", "delattr", "__setattr__", "exec", "eval", "import_module", "__import__"}
)
"""Names by which code writes where its own names do not tell."""

_VARIABLES = frozenset({"globals", "locals", "vars", "__dict__", "sys", "builtins"})
"""Names of what has any variables, into which code writes by an index or an attribute."""

_SAVING = frozenset({"save", "savez", "dump", "tofile", "to_csv", "to_parquet", "to_pickle"})
_LOADING = frozenset(
    {"load", "fromfile", "memmap", "read_csv", "read_parquet", "read_pickle", "read_bytes"}
)
"""Names by which code writes into a file and reads from one, of which Python may hear nothing."""

_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF")


class Names:
    """Whether functions may keep something where their names do not tell, and read it there."""

    def __init__(self) -> None:
        self._is_found = self._saves = self._loads = False

    def look_at(self, function: FunctionType) -> None:
        """Look at one of them; libraries, which use all such names, tell nothing."""
        if str(function.__module__).partition(".")[0] in LIBRARIES:
            return
        code = function.__code__
        used = {*names_in(code, _LOADS)}
        writes = any(True for _ in names_in(code, ("STORE_ATTR", "STORE_SUBSCR")))
        self._is_found |= not used.isdisjoint(_BY_ANY_NAME)
        self._is_found |= writes and not used.isdisjoint(_VARIABLES)
        self._saves |= not used.isdisjoint(_SAVING)
        self._loads |= not used.isdisjoint(_LOADING)

    @property
    def tell(self) -> bool:
        """Whether they may."""
        return self._is_found or (self._saves and self._loads)


def names_in(
    code: CodeType, operations: Collection[str] = ("STORE_DEREF", "STORE_GLOBAL")
) -> Iterator[str]:
    """Yield what some operations of a function name.

    Args:
        code: Of a function, with those inside of it.
        operations: By Python's names; by default, those that give other values to variables
            around the function, and of its file.
    """
    return (name for operation, name in _operations(code) if operation in operations)


@lru_cache(maxsize=1 << 14)
def _operations(code: CodeType) -> tuple[tuple[str, str], ...]:
    """Return the operations that load and store, with what they name."""
    found = {
        (each.opname, str(each.argval)): None
        for each in get_instructions(code)
        if each.opname.startswith(("LOAD_", "STORE_"))
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= dict.fromkeys(_operations(constant))
    return tuple(found)
