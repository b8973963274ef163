"""A small recipe of each kind that there is, for tests that must hold whatever the kind."""

from engine.recipes.files import KINDS, Recipe, validate_recipe

SHARED = {
    "arguments": {
        "num_train": 60,
        "num_objective": 30,
        "num_validation": 30,
        "num_test": 30,
        "model": {"width": 4, "depth": 1},
    },
    "training": {"num_steps": 6, "batch_size": 20, "threads": 1, "learning_rate": 0.1},
    "replay": {"steps_per_segment": 4},
    "preflight": "advise",
}

OWN = {
    "descent": {
        "metaparameters": {"name": "weights"},
        "outer": {"update": "sign", "num_steps": 1},
    },
    "metasmoothness": {
        "metaparameters": {"name": "weights"},
        "smoothness": {"directions": 1, "landscape": 1},
    },
    "smooth-search": {
        "metaparameters": {"name": "weights"},
        "smoothness": {"directions": 1, "landscape": 0},
        "search": {
            "grid": {"arguments.model.activation": ["relu", "gelu"]},
            "learning_rates": [0.1, 0.2],
        },
    },
    "attribution": {
        "attribution": {
            "num_queries": 2,
            "drops": [20],
            "num_subsets": 3,
            "trainings_per_stage": 3,
            "trial_subsets": 3,
            "baselines": ["final-gradient"],
        },
    },
    "canaries": {
        "outer": {"update": "Adam", "num_steps": 2, "step_size": 0.2},
        "replay": {"schedule": "store-all"},
        "canaries": {"num_canaries": 10, "num_audits": 3},
    },
}


def recipe_of(kind: str) -> Recipe:
    """Return a small recipe of a kind."""
    return validate_recipe({**SHARED, **OWN[kind], "kind": kind, "name": f"tiny-{kind}"}, "test")


assert OWN.keys() == KINDS.keys(), "a kind of recipe without a small one here"
