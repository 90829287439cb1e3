"""The truth to compare rankings with: a table of accuracies after full training.

The table is a CSV file, plain or gzipped, with one row for each architecture. It has the columns
`index` and `arch`, and any number of columns with numbers. Accuracies are in percent, and their
columns are called `<dataset>_valid` and `<dataset>_test`. In addition, `cifar10_valid_seed777` is a
single run, and `cifar10_test_12ep` a schedule of 12 epochs. Candidates are ranked by scores of our
own, and the ranking is judged by `<dataset>_test`.

The official files of NAS-Bench-201 and NATS-Bench are pickles, which can run any code when they are
loaded. If their source is trusted, `convert` turns them into such a table once.
"""

import bz2
import csv
import gzip
import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condense.errors import UserError, advice, unknown
from condense.reading import check_file, read_table
from condense.settings import require, within
from condense.writing import check_new, write_bytes
from nas.spaces import SPACES, space

_SEEDS = (777, 888, 999)
PUBLISHED = {"nasbench201": "NAS-Bench-201", "natssize": "NATS-Bench's size space"}
"""The spaces that have a published reference, and its name."""
# The benchmark's names for the dataset and the evaluation set, by our names. Its `cifar10` is
# trained on all 50,000 images and has no validation accuracy. Its `cifar10-valid` is trained on
# half of them.
OFFICIAL = {
    "cifar10_valid": ("cifar10-valid", "x-valid"),
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_valid": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_120_valid": ("ImageNet16-120", "x-valid"),
    "imagenet16_120_test": ("ImageNet16-120", "x-test"),
}
"""The accuracies in NAS-Bench-201, with the names that the benchmark has for them."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A table of numbers for the architectures of a space.

    >>> accuracies = np.full(space("nasbench201").SIZE, np.nan)
    >>> accuracies[[5, 7]] = 91.2, 93.8
    >>> reference = Reference("nasbench201", "a table", {"digits_test": accuracies})
    >>> reference.truth("digits", [7, 5])
    array([0.938, 0.912])
    >>> reference.known("digits_test")
    [5, 7]
    """

    space: str
    source: str
    """The path of the table, for messages."""
    columns: dict[str, NDArray[np.float64]]
    """The columns by name, each float64 [SIZE], with NaN where the table has no value."""

    def values(self, column: str, indices: Sequence[int]) -> NDArray[np.float64]:
        """The values of a column at these indices, in the unit of the table.

        Raises `UserError` for an unknown column, and if a value is missing.
        """
        if column not in self.columns:
            raise unknown(f"column of {self.source}:", column, self.columns)
        values = self.columns[column][list(indices)]
        if missing := [
            index for index, value in zip(indices, values, strict=True) if np.isnan(value)
        ]:
            first = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise UserError(
                f"{self.source} has no `{column}` for {len(missing)} of {len(values)} "
                f"architectures (indices {first}): complete it or choose among those it has"
            )
        return values

    def truth(self, dataset: str, indices: Sequence[int]) -> NDArray[np.float64]:
        """Test accuracies in [0, 1] after full training; rankings are judged by them."""
        return self.values(f"{dataset}_test", indices) / 100

    def validation(self, dataset: str, indices: Sequence[int]) -> NDArray[np.float64]:
        """Validation accuracies in [0, 1] after full training; a full search would rank by them."""
        return self.values(f"{dataset}_valid", indices) / 100

    def known(self, column: str) -> list[int]:
        """The indices of the architectures that have a value in `column`."""
        if column not in self.columns:
            raise unknown(f"column of {self.source}:", column, self.columns)
        return np.flatnonzero(~np.isnan(self.columns[column])).tolist()

    def save(self, path: str | Path) -> None:
        """Write the table to `path`, gzipped if the name ends in `.gz`.

        Rows without any value are left out.
        """
        path, architecture = Path(path), space(self.space).architecture
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index", "arch", *self.columns])
        table = np.stack(list(self.columns.values()), axis=1)
        for index in np.flatnonzero(~np.isnan(table).all(axis=1)).tolist():
            numbers = ["" if np.isnan(value) else f"{value:.10g}" for value in table[index]]
            writer.writerow([index, architecture(index).name, *numbers])
        content = text.getvalue().encode()
        write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def load(path: str | Path, space_name: str) -> Reference:
    """Read the table of a space from `path`.

    Raises `UserError` for a damaged file, for wrong columns, and for the table of another space.

    >>> from tempfile import TemporaryDirectory
    >>> from nas.spaces import nasbench201
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "nasbench201.csv")
    ...     name = nasbench201.architecture(5).name
    ...     _ = path.write_text(f"index,arch,digits_test\\n5,{name},91.2")
    ...     load(path, "nasbench201").values("digits_test", [5])
    array([91.2])
    """
    header, rows = _read(Path(path))
    names = _columns(path, header)
    module = space(space_name)
    table = np.full((module.SIZE, len(names)), np.nan)
    index_at, name_at = header.index("index"), header.index("arch")
    columns = [header.index(name) for name in names]
    seen: set[int] = set()
    for line, row in enumerate(rows, start=2):
        index = _index(path, line, row[index_at], row[name_at], space_name)
        if index in seen:
            raise UserError(f"{path}, line {line}: index {index} occurs twice")
        seen.add(index)
        for place, (name, column) in enumerate(zip(names, columns, strict=True)):
            if row[column]:
                with within(f"{path}, line {line}"):
                    table[index, place] = _number(name, row[column])
    for column, name in enumerate(names):
        values = table[:, column][~np.isnan(table[:, column])]
        if _is_accuracy(name) and len(values) > 1 and 0 < values.max() <= 1:
            raise UserError(f"{path}: `{name}` looks like fractions; give accuracies in percent")
    return Reference(
        space_name, str(path), {name: table[:, column].copy() for column, name in enumerate(names)}
    )


def _is_accuracy(name: str) -> bool:
    return "_test" in name or "_valid" in name


def _number(name: str, text: str) -> float:
    """The number in a column: in percent if it is an accuracy."""
    try:
        number = float(text)
    except ValueError as error:
        raise UserError(f"{error}; every column but `arch` holds numbers") from None
    require(name, number, np.isfinite(number), "a finite number")
    if _is_accuracy(name):
        require(name, number, 0 <= number <= 100, "an accuracy in percent, from 0 to 100")
    return number


def _columns(path: str | Path, header: list[str]) -> list[str]:
    """The columns of the header that hold numbers, after checking that nothing is missing."""
    if missing := {"index", "arch"} - set(header):
        raise UserError(
            f"{path} has no column {' and '.join(sorted(missing))}: "
            "a reference has `index`, `arch` and accuracies"
        )
    if len(set(header)) < len(header):
        raise UserError(f"{path} has a column twice: {', '.join(header)}")
    names = [name for name in header if name not in ("index", "arch")]
    if not any(name.endswith(("_test", "_valid")) for name in names):
        raise UserError(
            f"{path} has no accuracies: name them `<dataset>_test` and `<dataset>_valid`; "
            f"it has {', '.join(header)}"
        )
    return names


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file, plain or gzipped, all of the same length."""
    with advice("a reference is a CSV file, and a benchmark's .pth has to be converted first"):
        rows = read_table(path)
    if len(rows) < 2:
        raise UserError(f"{path} holds no rows: name a reference table")
    return rows[0], rows[1:]


def _index(path: str | Path, line: int, text: str, name: str, space_name: str) -> int:
    """The index in a row, after checking that the architecture with this index has this name."""
    if _is(space_name, text, name):
        return int(text)
    for other in SPACES:
        if other != space_name and _is(other, text, name):
            raise UserError(
                f"{path} is a reference for {other}, not for {space_name}: "
                "name another, or search that space"
            )
    raise UserError(
        f"{path}, line {line}: `{name}` is not architecture {text} of {space_name}: "
        "the table is for another space"
    )


def _is(space_name: str, index: str, name: str) -> bool:
    """Whether the space has an architecture with this index and this name."""
    module = space(space_name)
    return (
        index.isdecimal()
        and len(index) <= len(str(module.SIZE))
        and int(index) < module.SIZE
        and module.architecture(index).name == name
    )


def from_official(path: str | Path, *, trust_pickle: bool = False) -> Reference:
    """Read the official results of a benchmark, using the `nas-bench-201` package.

    They are a file `NAS-Bench-201-v1_*.pth`, or a folder of the later NATS-Bench with a file for
    each architecture: `NATS-tss-v1_*-simple` of the same cells, or `NATS-sss-v1_*-simple` of the
    space `natssize`. The accuracies are those after 200 epochs, of sizes after 90, averaged over
    the seeds. Reading takes some minutes, and the `.pth` several times its size in memory, so
    `convert` them once.

    All these files are pickles, and reading one runs whatever code it holds. Raises `UserError`
    without `trust_pickle`, and for what is missing or is not this benchmark.

    >>> from_official("NAS-Bench-201-v1_1-096897.pth")
    Traceback (most recent call last):
    condense.errors.UserError: NAS-Bench-201-v1_1-096897.pth is a pickle and can run any code ...
    """
    if not trust_pickle:
        raise UserError(
            f"{path} is a pickle and can run any code when read: "
            "pass --trust-pickle if you trust its source"
        )
    if not Path(path).is_dir():
        check_file(path)
    name, rows = "", {}
    for long, short in _of_folder(Path(path)) if Path(path).is_dir() else _of_file(path):
        name = name or ("natssize" if ":" in long.arch_str else "nasbench201")
        try:
            index = space(name).architecture(long.arch_str).index
        except UserError:
            raise UserError(f"{path}: `{long.arch_str}` is not of {name}, as others are") from None
        rows[index] = _official_row(long, short)
    names = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns = {column: np.full(space(name).SIZE, np.nan) for column in names}
    for index, row in rows.items():
        for column, value in row.items():
            columns[column][index] = value
    return Reference(name, str(path), columns)


def _of_file(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """For each architecture in the `.pth` file, its trainings of 200 epochs and those of 12."""
    import torch
    from nas_201_api import NASBench201API

    try:
        # The package's own loading fails with torch >= 2.6, where `weights_only` is the default.
        content = torch.load(path, map_location="cpu", weights_only=False)
        api = NASBench201API(content, verbose=False)
    except Exception as error:  # unpickling foreign content may raise anything
        raise UserError(
            f"{path} is not a NAS-Bench-201 file: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    # The records are read directly, because the query functions of the package default to 12 epochs
    # and to a random seed.
    for index in api.evaluated_indexes:
        long, short = (api.query_meta_info_by_index(int(index), hp=hp) for hp in ("200", "12"))
        yield long, short


def _of_folder(folder: Path) -> Iterator[tuple[Any, Any]]:
    """The same of a folder of NATS-Bench, file by file; sizes were trained for 90 epochs."""
    from nas_201_api import ArchResults

    paths = sorted(folder.glob("[0-9]*.pickle.pbz2"))
    if not paths:
        raise UserError(
            f"{folder} holds no files like 000000.pickle.pbz2: "
            "name the unpacked folder NATS-tss-v1_0-*-simple or NATS-sss-v1_0-*-simple, or a .pth"
        )
    for path in paths:
        try:
            content = pickle.loads(bz2.decompress(path.read_bytes()))
            longest = "200" if "200" in content else "90"
            states = (content[epochs] for epochs in (longest, "12"))
            long, short = map(ArchResults.create_from_state_dict, states)
        except Exception as error:  # unpickling foreign content may raise anything
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{path} is not of NATS-Bench: {text}") from error
        yield long, short


def _official_row(long: Any, short: Any) -> dict[str, float]:
    """The numbers for one architecture, without those that the benchmark did not measure."""
    row = {name: _accuracy(long, *official) for name, official in OFFICIAL.items()}
    row |= {
        f"cifar10_valid_seed{seed}": _accuracy(long, *OFFICIAL["cifar10_valid"], seed)
        for seed in _SEEDS
    }
    row |= {
        f"{name}_12ep": _accuracy(short, *official)
        for name, official in OFFICIAL.items()
        if name.endswith("_test")
    }
    row["n_seeds"] = len(long.dataset_seed.get("cifar10-valid", ()))
    if "cifar10-valid" in long.dataset_seed:
        costs = long.get_compute_costs("cifar10-valid")
        row |= {"params_M": costs["params"], "flops_M": costs["flops"]}
    return {name: float(value) for name, value in row.items() if value is not None}


def _accuracy(results: Any, dataset: str, split: str, seed: int | None = None) -> float | None:
    """The accuracy in percent after the last epoch, of one seed or averaged over all.

    None if there was no such training.
    """
    seeds = results.dataset_seed.get(dataset, ())
    if not seeds or (seed is not None and seed not in seeds):
        return None
    return results.get_metrics(dataset, split, is_random=False if seed is None else seed)[
        "accuracy"
    ]


def convert(
    pth: str | Path, table: str | Path, *, trust_pickle: bool = False, force: bool = False
) -> Reference:
    """Read the official file or folder at `pth`, and write it as a compact table to `table`.

    Raises `UserError` as `from_official` does, and if `table` is there, unless `force` says to
    replace it.

    >>> convert("NAS-Bench-201-v1_1-096897.pth", "nasbench201.csv.gz")
    Traceback (most recent call last):
    condense.errors.UserError: NAS-Bench-201-v1_1-096897.pth is a pickle and can run any code ...
    """
    check_new(Path(table), force=force)
    reference = from_official(pth, trust_pickle=trust_pickle)
    reference.save(table)
    return reference
