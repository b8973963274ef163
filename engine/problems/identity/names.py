"""What the digests of a problem's code are called in messages. Nothing here loads torch."""

BEHAVIOUR = "losses, updates or scores in a step that is tried"
"""Of what the code computes, see ``engine.problems.identity.tried``."""

ELSEWHERE = "source outside of the recipe's folder"
"""Of modules elsewhere, see ``engine.problems.identity.elsewhere``."""

CONFIGURATION = "configuration of the model"
"""Of models of transformers, see ``engine.problems.identity.configurations``."""
