"""Names of flow runs in every list of Prefect's.

A name that a person typed stays. Any other run has the title that the terminal gives it too
(``engine.recipes.titles``).
"""

import re
from contextlib import suppress
from functools import lru_cache
from itertools import chain

from prefect.context import FlowRunContext

from engine.errors import ConfigurationError
from engine.recipes.descent import DescentRecipe
from engine.recipes.forms.fields import FIELDS
from engine.recipes.titles import run_title
from flows.parts.form import taken_from_form


def flow_run_name() -> str:
    """Return the name of the flow run that is about to start, for ``@flow(flow_run_name=...)``."""
    context = FlowRunContext.get()
    assert context is not None  # Prefect asks inside of it
    assert context.flow is not None
    given = context.flow_run.name if context.flow_run is not None else ""
    if given and not is_drawn(given):
        return given
    parameters = context.parameters or {}
    recipe = parameters.get("recipe")
    if not isinstance(recipe, DescentRecipe):
        return given or context.flow.name  # it is about to be refused
    with suppress(ConfigurationError):  # then the flow refuses it
        given = {name: parameters[name] for name in FIELDS if name in parameters}
        said = parameters.get("settings"), parameters.get("arguments")
        recipe = taken_from_form(recipe, parameters.get("store") or "", *said, **given)
    return run_title(recipe, parameters.get("seeds"))


_ADJECTIVES = (
    "Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|"
    "Practical|Ergonomic|Handcrafted|Tasty|Handmade|Incredible"
)
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|"
    "sigma|tau|upsilon|phi|chi|psi|omega"
)
_DRAWN_BY_FORMS = re.compile(rf"({_ADJECTIVES})-[A-Z].{{0,7}}|({_GREEK})\d*(-[a-z]+)+")
"""Names that the forms of Prefect's UIs are filled in with: an animal (V2) or a star (V1)."""


def is_drawn(name: str) -> bool:
    """Say whether Prefect drew a name, such as ``humble-otter``, because nobody had typed one."""
    if _DRAWN_BY_FORMS.fullmatch(name):
        return True
    words = name.split("-")
    return len(words) > 1 and all(word in _drawn_words() for word in words)


@lru_cache(maxsize=1)
def _drawn_words() -> frozenset[str]:
    from coolname.data import config  # what Prefect draws its names from

    lists = [[*each.get("words", []), *each.get("phrases", [])] for each in config.values()]
    texts = (" ".join(entry) if isinstance(entry, list) else entry for entry in chain(*lists))
    return frozenset(word for text in texts for word in re.split(r"[\s-]+", text.lower()))
