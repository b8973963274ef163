"""Fault: two identical runs are started together.

Each stage must be computed by one of them, once, and both must end with the same references.
``python -m tests.faults --row two-flows`` tries it with two processes that start every trial at
the same instant, or one of them a random moment later.
"""

import multiprocessing
import random
import time
from typing import NamedTuple

import torch

from tests.faults import chain


class Trial(NamedTuple):
    """What became of two runs of one recipe on one store."""

    number: int
    """Of the trial."""

    shares: list[int]
    """Stages that each of the two computed."""

    once: bool
    """Whether each stage was computed, and none twice."""

    same_bits: bool
    """Whether both ended with the references of a run alone."""

    @property
    def holds(self):
        """Whether the two shared the work and the result."""
        return self.once and self.same_bits


def work(barrier, orders, results):
    """Carry out a run for each order: a store, and how long to wait after the common start."""
    torch.set_num_threads(1)
    while (order := orders.get()) is not None:
        store, delay = order
        barrier.wait(3600)
        time.sleep(delay)
        with chain.counted() as computed:
            refs = chain.run(store)
        results.put((chain.name_of(refs), computed))


def trials(folder, count, seed=0):
    """Yield trials, all by the same two processes."""
    draw, context = random.Random(seed), multiprocessing.get_context("spawn")
    refs = chain.run(folder / "alone")
    expected, stages = chain.name_of(refs), sorted(map(chain.stage_of, refs))
    barrier, results = context.Barrier(2), context.Queue()
    orders = [context.Queue() for _ in range(2)]
    workers = [
        context.Process(target=work, args=(barrier, mine, results), daemon=True) for mine in orders
    ]
    for worker in workers:
        worker.start()
    try:
        for number in range(1, count + 1):
            late = draw.choice([0, 0, draw.uniform(0, 0.3)])
            for mine, delay in zip(orders, draw.sample([0, late], 2), strict=True):
                mine.put((str(folder / f"store-{number}"), delay))
            both = [results.get(timeout=3600) for _ in workers]
            yield Trial(
                number=number,
                shares=[len(computed) for _, computed in both],
                once=sorted(both[0][1] + both[1][1]) == stages,
                same_bits=all(name == expected for name, _ in both),
            )
    finally:
        for mine in orders:
            mine.put(None)
        for worker in workers:
            worker.join(10)
            worker.kill()
