"""Values that a compiled pair keeps between its two programs: few, and every random draw.

The first program makes the gradient of a step, the second its product, and what the first hands to
the second is the graph that is kept. Torch's own rule recomputes what is cheap to recompute. Here
everything is recomputed except matrix products, convolutions and large sums, because the size of
kept graphs bounds how many steps need no replay. Random draws are always kept, since a second draw
would give other numbers.

Imported by whoever compiles, because it loads torch's compiler.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.custom_graph_pass import CustomPartitionerFn, get_hash_for_files
from torch.fx import GraphModule, Node
from torch.utils.checkpoint import CheckpointPolicy

from engine.models.attention_operations import NAMESPACE


class KeepsLittle(CustomPartitionerFn):
    """A rule by which torch cuts a joint graph in two; see the module."""

    def __call__(
        self,
        gm: GraphModule,
        joint_inputs: Sequence[object],
        **kwargs: Any,  # noqa: ANN401 (torch's own, handed on)
    ) -> tuple[GraphModule, GraphModule]:
        """Return the two programs of a joint graph."""
        for node in gm.graph.nodes:
            is_drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            if is_drawn or getattr(node.target, "namespace", "") == NAMESPACE:
                for kept in (node, *_parts(node)):
                    kept.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        with torch._functorch.config.patch(aggressive_recomputation=True):  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
            return min_cut_rematerialization_partition(gm, joint_inputs, **kwargs)

    def uuid(self) -> bytes:
        """Return this rule's identifier in torch's cache: its source."""
        return get_hash_for_files((__file__,))


def _parts(node: Node) -> list[Node]:
    """Return the nodes that take single results out of an operation with several."""
    return [user for user in node.users if user.target is operator.getitem]
