"""Fault: a file of a finished run is damaged.

The run is carried out again. It must end with the same references and the same numbers, compute
what was damaged and nothing else, and name every damage that it does not leave without effect.
``python -m tests.faults --row corruption`` tries it with random files and kinds of damage.
"""

import random
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.faults import chain


class Trial(NamedTuple):
    """What became of one damaged run."""

    number: int
    """Of the trial."""

    damage: str
    """What was done."""

    files: list[str]
    """To which files, below the folder of the stages."""

    repaired: int
    """Stages that were made again."""

    same_bits: bool
    """Whether references and all numbers are those of the intact run."""

    nothing_else: bool
    """Whether each stage whose files were left alone kept its attempt, and was not computed."""

    named: bool
    """Whether a warning names each stage that was made again, and no other."""

    @property
    def holds(self):
        """Whether no number changed, and no work was lost but the damaged."""
        return self.same_bits and self.nothing_else and self.named


def flip_bit(path, draw):
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(path, draw):
    """Cut the end off, perhaps all of it."""
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def delete(path, draw):
    """Remove the file."""
    path.unlink()


def fill_with_zeros(path, draw):
    """Put zeros in the place of everything, as a filesystem may after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = [flip_bit, truncate, delete, fill_with_zeros]


def swap(store, draw):
    """Exchange two chunks of the same size; return them."""
    sizes = {}
    for path in sorted(Path(store).glob("stages/*/*/attempts/*/*/c/*/*")):
        sizes.setdefault(path.stat().st_size, []).append(path)
    one, other = draw.sample(draw.choice([same for same in sizes.values() if len(same) > 1]), 2)
    before = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(before)
    return [one, other]


def damage(store, draw):
    """Damage a random file in a random way; return the way and the files."""
    how = draw.choice([*DAMAGE, swap])
    if how is swap:
        return how.__name__, swap(store, draw)
    path = draw.choice(sorted(p for p in Path(store, "stages").rglob("*") if p.is_file()))
    how(path, draw)
    return how.__name__, [path]


def once(number, intact, store, refs, numbers, draw):
    """Damage a copy of the intact run and carry it out again."""
    shutil.copytree(intact, store)
    before = chain.committed(store)
    how, paths = damage(store, draw)
    files = [str(path.relative_to(store / "stages")) for path in paths]
    damaged = {"/".join(file.split("/")[:2]) for file in files}
    with chain.warnings() as said, chain.counted() as computed:
        found = chain.run(store)
    after = chain.committed(store)
    named = {name for name in before if any(name.split("/")[1][:8] in line for line in said)}
    lost = {name for name in computed if any(f"{name}/record.json" == file for file in files)}
    trial = Trial(
        number=number,
        damage=how,
        files=files,
        repaired=len(computed),
        same_bits=found == refs and chain.is_same(chain.content(store, found), numbers),
        nothing_else=set(computed) <= damaged
        and len(computed) == len(set(computed))
        and all(after[name] == before[name] for name in before if name not in computed),
        # Without its record a stage is as good as never made, which is no damage to speak of.
        named=named | (lost if how == "delete" else set()) == set(computed),
    )
    shutil.rmtree(store)
    return trial


def trials(folder, count, seed=0):
    """Yield trials, each on a copy of one run."""
    draw = random.Random(seed)
    refs = chain.run(folder / "intact")
    numbers = chain.content(folder / "intact", refs)
    for number in range(1, count + 1):
        yield once(number, folder / "intact", folder / f"store-{number}", refs, numbers, draw)
