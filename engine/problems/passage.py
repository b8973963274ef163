"""Passages of texts: a prompt and a completion, and their place in a file.

The place is kept so that selected examples can be traced back to their files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Passage:
    """One example of a text.

    Attributes:
        prompt: What is given; may be empty.
        completion: What the model is to learn.
        source: Name of the corpus.
        file: URL of the file.
        line: Line of the file on which it begins, from 1.
        turns: For a dialogue, the parts of the completion in order, and whether the model is to
            learn each; empty where it learns all of it.
    """

    prompt: str
    completion: str
    source: str
    file: str
    line: int
    turns: tuple[tuple[str, bool], ...] = ()

    @property
    def text(self) -> tuple[str, str]:
        """What makes two passages the same."""
        return self.prompt, self.completion

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"line {self.line} of {self.file}"

    @property
    def name(self) -> str:
        """What people call it: its line, and the name of its file."""
        return f"line {self.line} of {self.file.rstrip('/').rpartition('/')[2]}"


@dataclass(frozen=True)
class Texts:
    """The passages behind the examples of a data set.

    Attributes:
        splits: Split to its passages, in the order of its examples.
        sources: Names of the corpora that the candidates come from.
        source_of: Number of each candidate's corpus.
    """

    splits: dict[str, list[Passage]]
    sources: tuple[str, ...]
    source_of: tuple[int, ...]

    @classmethod
    def of(cls, splits: dict[str, list[Passage]]) -> "Texts":
        """Number the corpora by name."""
        sources = tuple(sorted({passage.source for passage in splits["train"]}))
        numbers = {name: number for number, name in enumerate(sources)}
        return cls(splits, sources, tuple(numbers[each.source] for each in splits["train"]))

    def cut(self, rows: Mapping[str, Sequence[int]]) -> "Texts":
        """Return the same with splits that were cut from the objective's passages.

        Args:
            rows: Split to its places among them.
        """
        whole = self.splits["objective"]
        parts = {name: [whole[place] for place in places] for name, places in rows.items()}
        return replace(self, splits={**self.splits, **parts})
