"""What a deployment names: a flow that says in the log of its run that it is being loaded."""

import gc
import logging
import subprocess
import sys

import pytest
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.runtime import flow_run

from flows import loading, registry

FLOW = Flow(lambda: None, name="its-flow")
RUN = "11111111-2222-3333-4444-555555555555"


class Seen(registry.Flows):
    """Flows that note what was said before one is loaded, and whether garbage is looked for."""

    def __init__(self, said):
        super().__init__({"a-kind": "somewhere:its_flow"})
        self.said, self.found = said, []

    def __getitem__(self, name):
        self.found.append((name, list(self.said.messages), gc.isenabled()))
        return FLOW


@pytest.fixture
def flows(monkeypatch, caplog):
    """Flows in the place of all others, and no object put beyond the collector's reach."""
    caplog.set_level(logging.INFO, logger="prefect.flow_runs")
    made = Seen(caplog)
    monkeypatch.setattr(registry, "EVERY", (made,))
    monkeypatch.setattr(gc, "freeze", lambda: None)
    return made


def test_log_of_a_run_says_that_it_is_loaded_before_it_is(flows, monkeypatch):
    """Seconds of torch's imports came between Prefect's last word and the first of the run."""
    monkeypatch.setattr(flow_run, "get_id", lambda: RUN)

    assert loading.its_flow is FLOW
    assert flows.found == [("a-kind", [loading.LOADING_ROW], False)]
    assert gc.isenabled()


def test_nothing_is_said_where_no_run_starts(flows):
    """A process that deploys, or a test, has no log of a run."""
    assert loading.its_flow is FLOW
    assert flows.found == [("a-kind", [], True)]


def test_every_flow_that_can_be_deployed_is_there_by_the_name_of_its_function():
    """Also those whose kind is written with a hyphen."""
    for flows in registry.EVERY:
        for flow in flows.values():
            found = load_flow_from_entrypoint(f"{loading.__name__}.{flow.fn.__name__}")
            assert isinstance(found, Flow)
            assert found is flow


def test_what_is_no_flow_is_no_attribute():
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loading.nothing


def test_module_itself_loads_nothing():
    """The command line has it from its first second."""
    asked = "import sys, flows.loading as it; hasattr(it, '__path__')"
    told = "print({'torch', 'prefect'}.intersection(sys.modules))"
    code = f"{asked}; {told}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
