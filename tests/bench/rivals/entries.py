"""Who takes part. A mode of ours is a set of settings of the engine."""

import sys

from tests.bench.rivals.children import Entry

OUR_MODES: dict[str, dict[str, object]] = {
    "ours, store-all": {"metagradient": {"schedule": "store-all"}},
    "ours, sqrt(T) states": {"metagradient": {"schedule": "sqrt"}},
    "ours, 2 log2(T) states": {"metagradient": {"schedule": "binomial", "num_slots": "2 log2"}},
    "ours, sqrt(T) graphs": {
        "metagradient": {"schedule": "store-all", "unroll": "sqrt"},
        "routine": {"path": "graph"},
    },
    "ours, store-all, compiled product": {
        "metagradient": {"schedule": "store-all", "vjp": "compiled"},
        "routine": {"compile": True},
    },
    "ours, store-all in files, compiled product": {
        "metagradient": {"schedule": "store-all", "vjp": "compiled"},
        "routine": {"compile": True},
        "files": True,
    },
    "ours, sqrt(T) states, compiled product": {
        "metagradient": {"schedule": "sqrt", "vjp": "compiled"},
        "routine": {"compile": True},
    },
    "ours, sqrt(T) states in files, compiled product": {
        "metagradient": {"schedule": "sqrt", "vjp": "compiled"},
        "routine": {"compile": True},
        "files": True,
    },
    "ours, graphs of 4 steps, states in files, compiled": {
        "metagradient": {"schedule": "store-all", "unroll": 4},
        "routine": {"path": "graph", "compile": True},
        "files": True,
    },
    "ours, graphs of 4 steps, compiled": {
        "metagradient": {"schedule": "store-all", "unroll": 4},
        "routine": {"path": "graph", "compile": True},
    },
    "ours, sqrt(T) graphs, compiled": {
        "metagradient": {"schedule": "store-all", "unroll": "sqrt"},
        "routine": {"path": "graph", "compile": True},
    },
    "ours, all graphs": {
        "metagradient": {"schedule": "store-all", "unroll": "all"},
        "routine": {"path": "graph"},
    },
    "ours, all graphs, compiled": {
        "metagradient": {"schedule": "store-all", "unroll": "all"},
        "routine": {"path": "graph", "compile": True},
    },
    "ours, graphs of half of the steps, compiled": {
        "metagradient": {"schedule": "store-all", "unroll": "half"},
        "routine": {"path": "graph", "compile": True},
    },
}
"""A line here is a row of the table: arguments of ``engine.metagradient``, fields of the routine.

With ``files`` the states are written to a folder and read back, as bergson's always are; without
they stay in the process.

``sqrt(T) graphs`` keeps sqrt(T) states and, one after the other, the graphs of as many steps.
``all graphs`` trains with the graphs that are then walked back, so that no step is run twice. A
compiled product runs its step again, and keeps its graph inside of one program.
"""

UNIT = "plain torch"
"""The row whose training everybody's time is divided by."""


def contenders(bergson: str, jax: str, torchopt: str) -> list[Entry]:
    """Return all rows, given the Python of each rival's environment; empty for none."""
    ours = [
        Entry(label, "contender_ours", sys.executable, settings)
        for label, settings in OUR_MODES.items()
    ]
    return [
        Entry(UNIT, "contender_plain", sys.executable),
        Entry("plain torch, compiled", "contender_plain", sys.executable, {"compile": True}),
        *ours,
        Entry("bergson, all", "contender_bergson", bergson, {"save_mode": "all"}),
        Entry("bergson, sqrt", "contender_bergson", bergson, {"save_mode": "sqrt"}),
        Entry("torchopt, unrolled", "contender_torchopt", torchopt),
        Entry("jax, sqrt segments", "contender_jax", jax),
        Entry("jax, nested", "contender_jax", jax, {"remat_steps": True}),
    ]


def reference() -> Entry:
    """Return the float64 reference, which checks itself against a central difference."""
    options = {"reference": True, "metagradient": {"schedule": "store-all"}}
    return Entry("float64 reference", "contender_ours", sys.executable, options)
