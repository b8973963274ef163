"""A metaparameter that a problem brings with it, of a class of the user's own or any of ours."""

from dataclasses import dataclass

from engine.metaparameters.base import Metaparameter
from engine.metaparameters.setup import Setup


@dataclass(frozen=True, eq=False, repr=False)
class Own(Metaparameter):
    """Stands for it in recipes and reports; a run has the problem's object itself."""

    @classmethod
    def start(cls, setup: Setup) -> Metaparameter:
        """Return the metaparameter that the problem defines."""
        return setup.own()


KIND = Own
