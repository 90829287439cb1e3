"""Datasets by name, as uint8 images in memory or mapped from a file: `load_dataset("cifar10", "data")`.

Every source ends as the same `Dataset`: a user's folder or array is as good as CIFAR-10. Pixels stay uint8 until a
preprocessing makes them floats. `condense.arrays` reads what fits into memory, `condense.folders` what lies in image
files, decoded once (`condense.cache`).
"""

from dataclasses import dataclass
from pathlib import Path

from condense.data.images import Dataset
from condense.errors import UserError, unknown

DATASETS = {
    "digits": "8x8 grey, 10 classes: the handwritten digits that scikit-learn carries; needs no files",
    "mnist": "28x28 grey, 10 classes: handwritten digits",
    "fashionmnist": "28x28 grey, 10 classes: pieces of clothing",
    "svhn": "32x32 RGB, 10 classes: house numbers",
    "cifar10": "32x32 RGB, 10 classes",
    "cifar100": "32x32 RGB, 100 classes",
    "tinyimagenet": "64x64 RGB, 200 classes: the folder tiny-imagenet-200",
    "imagenet-1k": "64x64 RGB, 1000 classes: a folder with train/<wnid> and val/<wnid>",
    "imagenette": "128x128 RGB, 10 easy classes of an ImageNet folder",
    "imagewoof": "128x128 RGB, 10 dogs of an ImageNet folder",
    "imagesquawk": "128x128 RGB, 10 birds of an ImageNet folder",
    "folder:PATH": "your images: PATH/train/<class> and PATH/test/<class> (or val), or PATH/<class>; 32 px unless told",
    "FILE.npz": "your arrays, as in MedMNIST: train_images, train_labels, test_images, test_labels, maybe class_names",
}


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    resolution: int | None = None,
    download: bool = False,
) -> Dataset:
    """The dataset called `name`, one of `DATASETS`; its files are looked for in `data_dir` (default: ./data).

    `resolution` is the side in pixels: the shorter side is resized to it (bilinear, antialiased) and the centre
    cropped. None keeps the usual one of a named set (ImageNet 64, its subsets 128), the own size of an array (its
    centre square), and means 32 for `folder:PATH`. `download` fetches missing files of mnist, fashionmnist, svhn,
    cifar10 and cifar100.

    What has no test images of its own is split by a fixed rule: the second of every five images of a class, in the
    order of the file names (or of scikit-learn's digits), is a test image. Folders and arrays whose images are all
    greyscale have one channel, others three.

    Raises `UserError` for an unknown name and for missing or damaged data, naming the file.
    """
    if resolution is not None and resolution < 1:
        raise UserError(f"resolution {resolution} is not a side in pixels: give 1 or more")
    from condense.data import arrays, folders  # they stand on the types above

    root = _root(data_dir)
    if name.startswith("folder:"):
        return folders.folder(name, None if data_dir is None else root, resolution or 32)
    if name.endswith(".npz"):
        return arrays.npz(name, resolution)
    if name == "digits":
        return arrays.digits(resolution)
    if name in arrays.TORCHVISION:
        return arrays.torchvision(name, root, resolution, download)
    if name == "tinyimagenet":
        return folders.tiny_imagenet(root, resolution or 64)
    if name == "imagenet-1k":
        return folders.imagenet(name, root, resolution or 64)
    if name in folders.IMAGENET_SUBSETS:
        return folders.imagenet(name, root, resolution or 128)
    raise unknown("dataset", name, DATASETS)


def _root(data_dir: str | Path | None) -> Path:
    return Path("data" if data_dir is None else data_dir).expanduser()


def verify(
    name: str, data_dir: str | Path | None = None, *, resolution: int | None = None
) -> list[str]:
    """Load a dataset and describe in lines what is there; raises `UserError` naming what is missing or damaged."""
    from condense.data import arrays

    dataset = load_dataset(name, data_dir, resolution=resolution)
    lines = []
    if name in arrays.TORCHVISION:
        lines += [
            f"{path}: md5 {md5}, as expected"
            for path, md5 in arrays.official_files(name, _root(data_dir))
        ]
    for split, images in (("training", dataset.train), ("test", dataset.test)):
        counts, shape = images.counts(), "x".join(map(str, images.shape))
        lines.append(
            f"{len(images)} {split} images {shape} of {len(counts)} classes, {counts.min()} to {counts.max()} a class"
        )
    return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset came from, so that a resumed run finds it again."""

    name: str
    data_dir: str | None = None
    resolution: int | None = None
    hold_out: int = 0
    """Training images set apart as the test set, for making choices; 0: the real test set."""

    def load(self, *, download: bool = False) -> Dataset:
        """The dataset itself."""
        dataset = load_dataset(
            self.name, self.data_dir, resolution=self.resolution, download=download
        )
        # One split whatever the seed of a run: sets of several seeds are evaluated on the same images.
        return dataset.hold_out(self.hold_out, seed=0) if self.hold_out else dataset
