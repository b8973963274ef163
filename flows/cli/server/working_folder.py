"""Files of the working folder decide nothing about Prefect and drawings in a command's processes.

Prefect reads settings from ``.env``, ``prefect.toml`` and ``pyproject.toml`` of the folder in which
a process is. That folder may belong to another user: a clone, a data set, a shared folder. A server
that is named there gets the run, and answers with results that the client unpickles; a log
configuration calls what it names; a database is a file that is written. So a command takes settings
of Prefect from the environment and from the user's profile alone, and says what it has left out.

Prefect has no switch for it, so the functions by which it reads these files are replaced when it
is loaded, and in no other process than a command's. Matplotlib reads ``matplotlibrc`` there before
any other, and a wrong word in it would end a run at its report; it is loaded from another folder.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

_SETTINGS = "prefect.settings.base"

_DRAWINGS, _STYLE = "matplotlib", "matplotlibrc"

_LARGEST = 1 << 20
"""Bytes of a file that is looked at only in order to say that it is not obeyed."""


def leave_out() -> None:
    """Keep the working folder's files out of Prefect's settings, from when Prefect is loaded on."""
    if _SETTINGS in sys.modules:
        _read_no_folder(sys.modules[_SETTINGS])
    elif not any(isinstance(each, _AfterLoading) for each in sys.meta_path):
        sys.meta_path.insert(0, _AfterLoading())


def left_out() -> str | None:
    """Say which files of the working folder set something of Prefect's; None if none does."""
    named = [str(Path(name).absolute()) for name in _FILES if _sets_something(Path(name))]
    if not named:
        return None
    return (
        f"Ignored: settings of Prefect in {', '.join(named)}. The working folder may belong to "
        "another person. Export the settings that you need, e.g. PREFECT_API_URL, or put it into "
        "your profile: prefect config set PREFECT_API_URL=..."
    )


class _AfterLoading(MetaPathFinder):
    """Finds the modules that read files of the folder, and sees to it that they do not."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find those modules and no other."""
        if fullname not in (_SETTINGS, _DRAWINGS):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            if fullname == _DRAWINGS:
                with _elsewhere():
                    load(module)
            else:
                load(module)
                _read_no_folder(module)

        spec.loader.exec_module = load_and_change
        return spec


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Be in the root folder inside the block, where there is a file that would be read otherwise.

    It takes a tenth of a second, and nobody else's path depends on it: they are absolute by then.
    """
    if not os.path.exists(_STYLE):
        yield
        return
    here = os.open(".", os.O_RDONLY)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _read_no_folder(base: Any) -> None:  # noqa: ANN401 (a module of Prefect's)
    """Replace how Prefect reads the three files.

    Raises:
        AttributeError: If Prefect reads them by other means than the versions that are known: then
            nothing may go on as if they were not read.
    """
    sources: Any = sys.modules[base.PrefectTomlConfigSettingsSource.__module__]
    toml = sources.TomlConfigSettingsSourceBase
    if getattr(toml, "of_no_folder", False):
        return
    # Asked for, so that a version without one of them is told.
    _ = toml._read_file, sources.dotenv.dotenv_values, sources._get_profiles_path_from_toml
    toml._read_file = lambda _self, _path: {}
    toml.of_no_folder = True
    # pydantic opens the file as well, and Prefect then asks no more for what it held.
    for each, option in (
        (base.PrefectBaseSettings, "_env_file"),
        (sources.FilteredDotEnvSettingsSource, "env_file"),
    ):
        each.__init__ = _without(each.__init__, option)
    # The two by which the file of the profiles is found.
    sources.dotenv = SimpleNamespace(dotenv_values=lambda *_args, **_options: {})
    sources._get_profiles_path_from_toml = lambda *_args: None


def _without(begin: Callable[..., None], option: str) -> Callable[..., None]:
    def begin_without(*args: Any, **options: Any) -> None:  # noqa: ANN401 (as it is called)
        begin(*args, **(options | {option: None}))

    return begin_without


def _sets_something(file: Path) -> bool:
    # Whatever it holds: it is not obeyed, and so nothing of it may stop a command.
    with suppress(OSError, ValueError, RecursionError):
        if file.is_file() and file.stat().st_size <= _LARGEST:
            return _FILES[file.name](file.read_text(encoding="utf-8"))
    return False


def _of_dotenv(text: str) -> bool:
    names = (line.strip().removeprefix("export").lstrip() for line in text.splitlines())
    return any(name.lower().startswith("prefect_") and "=" in name for name in names)


def _of_pyproject(text: str) -> bool:
    import tomllib

    return "prefect" in tomllib.loads(text).get("tool", {})


_FILES = {
    ".env": _of_dotenv,
    "prefect.toml": lambda text: bool(text.strip()),
    "pyproject.toml": _of_pyproject,
}
"""Files to whether a text of theirs sets something of Prefect's."""
