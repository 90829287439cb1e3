"""A Lightning DataModule of a condensed set, and a network of timm that is trained on it.

    python lightning_timm.py runs/digits

It needs `pip install lightning timm`. Run so, the set must be of a dataset that is loaded by its
name; `CondensedData` takes any dataset, such as `as_dataset` makes of your own. Training images
come from the set alone; real images are only tested on, under the set's own preprocessing.

Twenty images are one minibatch, so that an epoch is one step. Take hundreds of epochs for a result.
"""

import sys

import lightning
import timm
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from condense import CondensedSet, Dataset, load_dataset
from condense.data.augment import make_augment, suited


class CondensedData(lightning.LightningDataModule):
    """The images of a condensed set to train on, and the real test images of its dataset."""

    def __init__(self, path: str, real: Dataset, batch_size: int = 256) -> None:
        super().__init__()
        self.condensed, self.real, self.batch_size = CondensedSet.load(path), real, batch_size

    def train_dataloader(self) -> DataLoader:
        """Pairs of a preprocessed image and its label; mosaics are decoded."""
        return DataLoader(self.condensed.as_dataset(), self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        """The real test images, preprocessed as the set is."""
        images = self.condensed.preprocess.apply(self.real.test.pixels)
        return DataLoader(TensorDataset(images, self.real.test.labels), self.batch_size)


class Classifier(lightning.LightningModule):
    """Any network, trained by SGD on augmented images. Labels are hard or soft."""

    def __init__(self, network: torch.nn.Module, epochs: int, augment: str = "dsa") -> None:
        super().__init__()
        self.network, self.epochs, self.augment = network, epochs, make_augment(augment)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        images = self.augment.training(images, seed=0, step=self.global_step)
        return functional.cross_entropy(self.network(images), labels)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, labels = batch
        hits = (self.network(images).argmax(dim=1) == labels).float()
        self.log("accuracy", hits.mean(), batch_size=len(labels))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def main(path: str, dataset: str = "digits", epochs: int = 50) -> float:
    """Train a ResNet-18 of timm on the set at `path`; its accuracy on real test images."""
    lightning.seed_everything(0, verbose=False)
    data = CondensedData(path, load_dataset(dataset))
    network = timm.create_model(
        "resnet18", num_classes=len(data.real.classes), in_chans=data.real.shape[0]
    )
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="auto", log_every_n_steps=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    model = Classifier(network, epochs, suited("dsa", dataset))  # "dsa-noflip" for digits
    trainer.fit(model, datamodule=data)
    (result,) = trainer.test(model, datamodule=data)
    return result["accuracy"]


if __name__ == "__main__":
    print(f"accuracy {main(*sys.argv[1:3]):.1%}")
