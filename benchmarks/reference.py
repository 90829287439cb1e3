"""The published DataDAM loop, written plainly from its description.

It is what the engine is measured against.

Each step builds a fresh network; samples and augments class after class; sends all real images
through the network at once and then all synthetic ones, eager, in float32 and the default layout,
collecting the layers' outputs by hooks; adds up the loss class by class on the host. Randomness is
torch's global generator, as there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.methods import DataDAM
from condense.methods.base import Recipe


def convnet(channels: int, size: int, num_classes: int, norm: str, depth: int) -> nn.Sequential:
    """The ConvNet of width 128: convolution, norm, ReLU, average pooling; a linear layer."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, 128, 3, padding=1),
            nn.GroupNorm(128, 128) if norm == "instance" else nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
        channels, size = 128, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * size * size, num_classes))


def augment(images: Tensor, seed: int) -> Tensor:
    """One of the operations of DSA for all images of a class; the same `seed` draws the same."""
    torch.manual_seed(seed)
    size = images.shape[-1]
    operation, u = int(torch.randint(6, ())), torch.rand(3)
    if operation == 0:
        images = images + (u[0] - 0.5).item()
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * (2 * u[1]).item() + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (u[2] + 0.5).item() + mean
    if operation == 1:
        pad = size // 8
        x, y = (int(v * (2 * pad + 1)) for v in u[:2])
        return F.pad(images, [pad] * 4)[:, :, y : y + size, x : x + size]
    if operation == 2:
        x, y = (int(v * (size + 1)) for v in u[:2])
        mask = torch.ones_like(images)
        mask[:, :, max(0, y - size // 4) : y + size // 4, max(0, x - size // 4) : x + size // 4] = 0
        return images * mask
    if operation == 3:
        return images.flip(3) if u[0] < 0.5 else images
    if operation == 4:
        sx, sy = (1 / 1.2 + v * (1.2 - 1 / 1.2) for v in u[:2].tolist())
        theta = torch.tensor([[sx, 0.0, 0.0], [0.0, sy, 0.0]])
    else:
        angle = math.radians((u[0].item() * 2 - 1) * 15)
        theta = torch.tensor(
            [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
        )
    grid = F.affine_grid(
        theta.to(images.device).expand(len(images), 2, 3), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, align_corners=False)


class Reference:
    """The loop's state: images and their optimiser. Its settings are those of a DataDAM recipe."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        preprocess: Preprocess,
        start: Tensor,
        norm: str,
        device: torch.device,
    ) -> None:
        assert isinstance(recipe.method, DataDAM)
        self.recipe, self.method, self.norm, self.device = recipe, recipe.method, norm, device
        self.num_classes, self.shape = len(dataset.classes), dataset.shape
        self.real = preprocess.apply(dataset.train.pixels).to(device)
        self.members = [dataset.train.of_class(c) for c in range(self.num_classes)]
        self.images = start.to(device, copy=True).requires_grad_()
        self.optimizer = torch.optim.SGD([self.images], lr=recipe.lr, momentum=recipe.momentum)

    def step(self, step: int) -> float:
        """One step; returns the loss."""
        channels, size, _ = self.shape
        depth = round(math.log2(size)) - 2
        network = convnet(channels, size, self.num_classes, self.norm, depth)
        network = network.to(self.device).train()
        seen: list[Tensor] = []
        for layer in network:
            if isinstance(layer, nn.ReLU):
                layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        real, synthetic, per = [], [], len(self.images) // self.num_classes
        for c, members in enumerate(self.members):
            chosen = members[torch.randperm(len(members))[: self.recipe.real_batch]]
            seed = step * self.num_classes + c
            real.append(augment(self.real[chosen.to(self.device)], seed))
            synthetic.append(augment(self.images[c * per : (c + 1) * per], seed))
        described = []
        for batch in (torch.cat(real), torch.cat(synthetic)):
            seen.clear()
            embedding = network[:-1](batch)
            described.append((list(seen), embedding))
        loss = self._loss(*described)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _loss(
        self, real: tuple[list[Tensor], Tensor], synthetic: tuple[list[Tensor], Tensor]
    ) -> Tensor:
        method, loss = self.method, torch.zeros(())

        def gap(of_real: Tensor, of_synthetic: Tensor, c: int) -> Tensor:
            means = []
            for values in (of_real, of_synthetic):
                per = len(values) // self.num_classes
                means.append(values[c * per : (c + 1) * per].mean(0))
            return ((means[0] - means[1]) ** 2).sum().cpu()

        for real_map, synthetic_map in zip(real[0][:-1], synthetic[0][:-1], strict=True):
            attended = [
                F.normalize(layer.abs().pow(method.power).sum(1).flatten(1))
                for layer in (real_map.detach(), synthetic_map)
            ]
            for c in range(self.num_classes):
                loss = loss + method.loss_scale * gap(attended[0], attended[1], c)
        for c in range(self.num_classes):
            distance = gap(real[1].detach(), synthetic[1], c)
            loss = loss + method.loss_scale * method.task_balance * distance
        return loss
