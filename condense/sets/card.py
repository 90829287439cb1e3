"""The card of an export: what is in it, what was measured of it, and how it is read.

It is Markdown, and its first lines are what Hugging Face wants to know of a dataset. The text is in
`condense/sets/cards`: one template, and for each format the lines of Python that read it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from condense.data.catalogue import NAMED
from condense.errors import one_line
from condense.sets.condensed import CondensedSet
from condense.sets.formats import ddranking
from condense.sets.formats.base import dataset_of
from condense.sets.formats.pictures import folder_names

_FOLDER = Path(__file__).parent / "cards"
_NON_COMMERCIAL = "for non-commercial research and education only (image-net.org)"
_CIFAR = "CIFAR states no licence; it asks to cite Krizhevsky (2009)"
_LICENCES = {
    "cifar10": ("unknown", _CIFAR),
    "cifar100": ("unknown", _CIFAR),
    "digits": ("cc-by-4.0", "CC BY 4.0 (Alpaydin and Kaynak, UCI Machine Learning Repository)"),
    "mnist": ("cc-by-sa-3.0", "CC BY-SA 3.0 (LeCun, Cortes and Burges)"),
    "fashionmnist": ("mit", "MIT (Zalando SE)"),
    "svhn": ("other", "for non-commercial use only (Netzer et al., 2011)"),
    **dict.fromkeys(
        ("tinyimagenet", "imagenet-1k", "imagenette", "imagewoof", "imagesquawk"),
        ("other", _NON_COMMERCIAL),
    ),
}
"""The licence of the real images by dataset: as Hugging Face calls it, and in words."""
_UNKNOWN = ("unknown", "not known here: state the licence of the real images before you publish")
_QUANTISED = {
    "folder": "The pictures are clipped and rounded to 8 bits.",
    "npz": "The pixels are clipped and rounded to 8 bits.",
    "hf": "The column `image` is clipped and rounded to 8 bits; `preprocessed` has every bit.",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What networks of one architecture reached that were trained on the set.

    >>> Result(network="mlp", protocol="dm", tested_on="digits", accuracy="50.0 %").network
    'mlp'
    """

    network: str
    protocol: str
    """In words."""
    tested_on: str
    """In words."""
    accuracy: str
    """Mean, interval and number of networks."""


def licence_of(dataset: str) -> tuple[str, str]:
    """The licence of the real images of a dataset: as Hugging Face calls it, and in words.

    >>> licence_of("fashionmnist")
    ('mit', 'MIT (Zalando SE)')
    """
    return _LICENCES.get(dataset, _UNKNOWN)


def card(condensed: CondensedSet, form: str, name: str, results: Sequence[Result]) -> bytes:
    """The card of the export of a set as the file or folder called `name`, as UTF-8.

    >>> condensed = CondensedSet.load("cifar10-ipc1-best")
    >>> lines = card(condensed, "npz", "ten.npz", []).decode().splitlines()
    >>> [line for line in lines if line.startswith("#")][0]
    '# cifar10, condensed to 1 image per class'
    """
    decoded, dataset = condensed.decoded(), dataset_of(condensed)
    licence_id, licence = licence_of(dataset)
    preprocess, scored = condensed.preprocess, ddranking.transform(dataset)
    facts = {
        "name": name,
        "form": form,
        "dataset": dataset,
        "known": _named(dataset),
        "ipc": condensed.ipc,
        "per_class": decoded.ipc,
        "images": len(decoded),
        "origin": _origin(condensed),
        "size": next(size for limit, size in _SIZES if len(decoded) < limit),
        "shape": condensed.shape,
        "formation": condensed.formation,
        "soft": condensed.soft,
        "quantised": _QUANTISED.get(form, "Every bit of the images is kept."),
        "preprocess": preprocess.name,
        "mean": _numbers(preprocess.mean) if preprocess.name == "standard" else [],
        "std": _numbers(preprocess.state().get("std", [])),
        "scored_mean": _numbers(scored.mean),
        "scored_std": _numbers(scored.std),
        "results": results,
        "classes": [
            *enumerate(zip(condensed.classes, folder_names(condensed.classes), strict=True))
        ],
        "licence_id": licence_id,
        "licence": licence,
        "provenance": json.dumps(condensed.provenance, indent=2, ensure_ascii=False),
    }
    template = _environment().get_template("card.jinja")
    return template.render(facts).encode(errors="backslashreplace")


def _named(dataset: str) -> str:
    """What names the dataset on another machine, where a folder lies elsewhere."""
    if dataset in NAMED:
        return dataset
    return "folder:PATH" if dataset.startswith("folder:") else "NAME"


def _origin(condensed: CondensedSet) -> str:
    """How the images were made, in a sentence, as far as the provenance says."""
    (facts, *_) = condensed.provenance.get("merged", [condensed.provenance])
    match facts:
        case {"recipe": {"name": name, "method": {"name": method}}}:
            return f"They are synthetic, condensed by the recipe `{name}` (method `{method}`)."
        case {"imported": _}:
            return "They were imported from a file that does not say how they were made."
        case {"method": method}:
            return f"They are real images, selected by the method `{method}`."
    return "How they were made is not recorded."


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (float("inf"), "n>100K"))


def _numbers(values: Any) -> list[float]:
    """Float32 values as the shortest numbers that give them back."""
    return [float(str(np.float32(value))) for value in values]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quoted": _quoted, "cell": _cell}
    return environment


def _quoted(value: Any) -> str:
    """A value as JSON, which YAML and Python can hold."""
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return one_line(text).replace("|", "\\|")
