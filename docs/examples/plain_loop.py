"""A plain PyTorch loop that trains a network on a condensed set.

python plain_loop.py runs/digits
"""

import sys

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from condense import CondensedSet, load_dataset
from condense.data.augment import make_augment, suited


def main(path: str, dataset: str = "digits", epochs: int = 200) -> float:
    """Train a small network on the set at `path`; its accuracy on real test images."""
    torch.manual_seed(0)
    condensed, real = CondensedSet.load(path), load_dataset(dataset)
    channels, height, width = condensed.shape
    network = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * height * width, len(condensed.classes)),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(condensed.as_dataset(), batch_size=256, shuffle=True)
    augment = make_augment(suited("dsa", dataset))  # without it, few images teach less
    for epoch in range(epochs):
        for number, (images, labels) in enumerate(loader):
            images = augment.training(images, seed=0, step=epoch * len(loader) + number)
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

    tested = condensed.preprocess.apply(real.test.pixels)  # as the set is preprocessed
    with torch.no_grad():
        hits = network(tested).argmax(dim=1) == real.test.labels
    return hits.float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main(*sys.argv[1:3]):.1%}")
