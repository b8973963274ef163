"""GraphSAGE with sampled neighbours of two hops, nodes drawn with replacement by their weights."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import BatchSampler, DataLoader, Dataset, WeightedRandomSampler

NODES, TRAINED, HOP, BATCH, STEPS = 36, 18, 3, 6, 9


def graph():
    drawn = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, (NODES,), generator=drawn)
    features = torch.randn(NODES, 4, generator=drawn) + 0.5 * labels[:, None]
    same = labels[:, None] == labels
    near = torch.rand(NODES, NODES, generator=drawn) + 0.5 * same > 0.9
    near |= torch.eye(NODES, dtype=torch.bool)
    return features, labels, near | near.T


class Neighbourhoods(Dataset):
    """A node, some of its neighbours, and some of each one's."""

    def __init__(self, nodes, seed):
        self.nodes = list(nodes)
        self.features, self.labels, near = graph()
        drawn = torch.Generator().manual_seed(seed)

        def some(node):
            known = near[node].nonzero()[:, 0]
            return known[torch.randint(len(known), (HOP,), generator=drawn)]

        self.first = [some(node) for node in self.nodes]
        self.second = [torch.stack([some(each) for each in first]) for first in self.first]

    def __len__(self):
        return len(self.nodes)

    def __getitem__(self, place):
        node = self.nodes[place]
        return {
            "place": place,
            "itself": self.features[node],
            "first": self.features[self.first[place]],
            "second": self.features[self.second[place]],
            "label": self.labels[node],
        }


class Sage(nn.Module):
    def __init__(self, inner, outer):
        super().__init__()
        self.own, self.around = nn.Linear(inner, outer), nn.Linear(inner, outer, bias=False)

    def forward(self, itself, around):
        return self.own(itself) + self.around(around.mean(dim=-2))


class GraphSAGE(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = Sage(4, 6), Sage(6, 3)

    def forward(self, batch):
        first = nn.functional.elu(self.layer1(batch["first"], batch["second"]))
        itself = nn.functional.elu(self.layer1(batch["itself"], batch["first"]))
        return self.layer2(normalize(itself, dim=-1), normalize(first, dim=-1))


def make_model():
    torch.manual_seed(6)
    return GraphSAGE()


def batches():
    rarity = 1.0 / torch.bincount(graph()[1][:TRAINED], minlength=3).clamp(min=1)
    sampler = WeightedRandomSampler(
        rarity[graph()[1][:TRAINED]],
        TRAINED,
        replacement=True,
        generator=torch.Generator().manual_seed(2),
    )
    return BatchSampler(sampler, BATCH, drop_last=True)


def losses_of(model, batch):
    return cross_entropy(model(batch), batch["label"], reduction="none")


def start():
    return torch.ones(TRAINED)


def train(weights):
    """Train with a weight for each node; return the mean loss on others."""
    data = Neighbourhoods(range(TRAINED), 0)
    model = make_model()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01, alpha=0.9, eps=1e-2, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    loader, done = DataLoader(data, batch_sampler=batches()), 0
    while done < STEPS:
        for batch in loader:
            optimizer.zero_grad()
            (losses_of(model, batch) * weights[batch["place"]]).mean().backward()
            optimizer.step()
            scheduler.step()
            done += 1
    held_out = Neighbourhoods(range(TRAINED, 30), 1)
    (batch,) = DataLoader(held_out, batch_size=len(held_out))
    with torch.no_grad():
        return float(losses_of(model, batch).mean())
