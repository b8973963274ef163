"""Loading of flows: what a flow computes with takes seconds to load, and whoever waits is told.

A deployment names its flow as an attribute of this module, which is there before torch is:
``flows.loading.descent`` is the flow of ``flows.descent``.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import Flow

    from flows.registry import Flows

LOADING_ROW = "Loading torch and the code of the run"
"""Row in the log of a run, some seconds before its own first one."""


@contextmanager
def loading() -> Iterator[None]:
    """Leave garbage alone inside the block, in which what stays is loaded, or until ``loaded``.

    Python looks through all objects each time that there are a quarter more of them, which is a
    tenth to a fifth of the computing time that loading takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def loaded() -> None:
    """Look for garbage again, and never among what is there by now."""
    gc.freeze()
    gc.enable()


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a flow, or whatever the caller asks for wrongly)
    """Load the flow of a name; where Prefect starts a run of it, its log says so.

    Raises:
        AttributeError: If no flow is called that.
    """
    if not name.startswith("_"):  # Python asks every module for its __path__
        from flows.registry import EVERY

        for flows in EVERY:
            if kind := flows.of_function(name):
                return _load(flows, kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load(flows: "Flows", kind: str) -> "Flow[..., Any]":
    from uuid import UUID

    from prefect.logging.loggers import flow_run_logger
    from prefect.runtime import flow_run

    run = flow_run.get_id()
    if run is None:  # a process that has more to do than this run
        return flows[kind]
    flow_run_logger(flow_run_id=UUID(run)).info(LOADING_ROW)
    with loading():
        flow = flows[kind]
    loaded()
    return flow
