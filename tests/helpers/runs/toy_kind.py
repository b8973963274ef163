"""A kind of run that nothing else knows, for tests of what must work for any."""

from engine.runs.finished import FinishedRun
from engine.stages.references import Ref


class Record(FinishedRun):
    """A record of a kind that nothing else knows."""

    bulky = frozenset({"train"})

    answer: int = 42
    kept: list[Ref] = []

    @property
    def verifiable(self):
        """Return no: its recipe says that it is a descent, which it is not."""
        return False

    def refs_to_keep(self, store):
        """Return what the test says."""
        return self.kept

    def headline(self):
        """Return the answer."""
        return f"The answer is {self.answer}."

    def numbers(self):
        """Return none."""
        return []

    def findings(self):
        """Return the answer."""
        return [self.headline()]

    def table(self):
        """Return the answer as a row."""
        return [{"question": "six by nine", "answer": self.answer}]

    def outcome(self):
        """Return the answer."""
        return {"answer": self.answer}
