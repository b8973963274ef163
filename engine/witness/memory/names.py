"""What the names in a function's code tell of where it writes."""

from collections.abc import Collection, Iterator
from dis import get_instructions
from functools import lru_cache
from sysconfig import get_paths
from types import CodeType, FunctionType

from engine.routine.module.reachable import is_of_library

INSTALLED = tuple(get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
"""Folders of Python and of packages."""

_BUILT_IN = frozenset({"setattr", "delattr", "exec", "eval", "__import__"})
_BY_ANY_NAME = frozenset({"__setattr__", "import_module"})
"""Names by which code writes where its own names do not tell. The first are functions of Python's:
``model.eval()`` is another one."""

_VARIABLES = frozenset({"globals", "locals", "vars", "__dict__", "builtins"})
_VARIABLES_OF_SYS = frozenset({"modules", "_getframe"})
"""Names of what has any variables, into which code writes by an index or an attribute. Most of
``sys``, such as ``sys.stderr``, has none."""

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
        code = function.__code__
        if is_of_library(function) or code.co_filename.startswith(INSTALLED):
            return
        used, by_itself = {*names_in(code, _LOADS)}, {*names_in(code, _LOADS[:2])}
        writes = any(True for _ in names_in(code, ("STORE_ATTR", "STORE_SUBSCR")))
        built_in = used if "builtins" in used else by_itself
        self._is_found |= not used.isdisjoint(_BY_ANY_NAME) or not built_in.isdisjoint(_BUILT_IN)
        has_any = "sys" in used and not used.isdisjoint(_VARIABLES_OF_SYS)
        self._is_found |= writes and (has_any or not used.isdisjoint(_VARIABLES))
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
