"""Reference tables.

Reading, gaps, other people's files, and the official file through its package.
"""

import bz2
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from condense.errors import UserError
from nas.reference import convert, from_official, load
from nas.spaces import natssize
from nas.spaces.convnet720 import architecture as convnet
from nas.spaces.nasbench201 import architecture as cell

TABLE = Path(__file__).parents[3] / "shared" / "data" / "nasbench201.csv.gz"


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def small(tmp_path):
    """Three cells; the middle one has no test accuracy."""
    rows = [
        f"{i},{cell(i).name},{valid},{test}"
        for i, valid, test in ((5, 90, 91.5), (0, 80, ""), (7, 70, 71))
    ]
    return _write(tmp_path / "small.csv", ["index,arch,cifar10_valid,cifar10_test", *rows])


def test_columns_are_named_and_never_mixed_up(small):
    reference = load(small, "nasbench201")
    assert reference.truth("cifar10", [7, 5]).tolist() == pytest.approx([0.71, 0.915])
    assert reference.validation("cifar10", [7, 5, 0]).tolist() == pytest.approx([0.70, 0.90, 0.80])
    assert reference.values("cifar10_test", [5]).tolist() == [91.5]
    assert reference.known("cifar10_test") == [5, 7]
    with pytest.raises(UserError, match="did you mean `cifar10_test`"):
        reference.values("cifar1O_test", [5])
    with pytest.raises(UserError, match="cifar100_test"):
        reference.truth("cifar100", [5])


def test_gaps_are_counted_and_the_first_named(small):
    reference = load(small, "nasbench201")
    with pytest.raises(
        UserError, match=r"no `cifar10_test` for 1 of 3 architectures \(indices 0\)"
    ):
        reference.truth("cifar10", [5, 0, 7])
    with pytest.raises(
        UserError, match=r"for 10 of 10 architectures \(indices 20, 21, 22, 23, 24, \.\.\.\)"
    ):
        reference.truth("cifar10", list(range(20, 30)))


def test_a_saved_table_reads_back(small, tmp_path):
    reference = load(small, "nasbench201")
    for name in ("copy.csv", "copy.csv.gz"):
        reference.save(tmp_path / name)
        again = load(tmp_path / name, "nasbench201")
        assert list(again.columns) == list(reference.columns)
        for column, values in reference.columns.items():
            np.testing.assert_array_equal(again.columns[column], values)
    first = (tmp_path / "copy.csv.gz").read_bytes()
    reference.save(tmp_path / "copy.csv.gz")
    assert (tmp_path / "copy.csv.gz").read_bytes() == first


def test_the_real_table():
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-201 table is not at hand")
    reference = load(TABLE, "nasbench201")
    truth = reference.truth("cifar10", range(15_625))
    assert truth.argmax() == 6111
    assert truth.max() == pytest.approx(0.943733)
    assert np.sum(truth == 0.1) == 341
    with pytest.raises(UserError, match="7456 of 15625"):
        reference.values("cifar10_valid_seed999", range(15_625))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["index,arch,cifar10_test", f"0,{convnet(0).name},50"],
            "reference for convnet720, not for nasbench201",
        ),
        (["index,arch,cifar10_test", f"1,{cell(0).name},50"], "line 2: .* is not architecture 1"),
        (
            ["index,arch,cifar10_test", f"0,{cell(0).name},50", f"0,{cell(0).name},50"],
            "line 3: index 0 occurs twice",
        ),
        (["index,arch,cifar10_test", f"0,{cell(0).name},good"], "line 2: .*'good'"),
        (["index,arch,cifar10_test", f"0,{cell(0).name}"], "line 2: 2 values for 3 columns"),
        (["number,arch,cifar10_test", f"0,{cell(0).name},50"], "no column index"),
        (["index,arch,params_M", f"0,{cell(0).name},50"], "no accuracies"),
        (["index,arch,cifar10_test"], "no rows"),
        (
            ["index,arch,cifar10_test", f"0,{cell(0).name},0.5", f"1,{cell(1).name},0.9"],
            "`cifar10_test` looks like fractions",
        ),
    ],
)
def test_wrong_tables(tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as error:
        load(_write(tmp_path / "wrong.csv", lines), "nasbench201")
    assert "wrong.csv" in error.value.args[0]


def test_missing_and_damaged_files(tmp_path, small):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.csv", "nasbench201")
    whole = gzip.compress(small.read_bytes())
    for content in (
        whole[:-12],
        whole[:20] + b"\x00" * 10 + whole[30:],
        b"\x80\x04\xff\xfe pickle",
    ):
        (tmp_path / "damaged.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"not a readable gzip file|damaged or no text"):
            load(tmp_path / "damaged.gz", "nasbench201")


# What the official file holds of one trained architecture: dataset -> seeds, and the accuracies of
# its evaluation sets.
SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("ori-test", "x-valid", "x-test"),
    "ImageNet16-120": ("ori-test", "x-valid", "x-test"),
}


def _accuracy(index: int, epochs: int, dataset: str, split: str, seed: int) -> float:
    """A different number for everything that could be mixed up."""
    return (
        index
        + epochs / 100
        + 10 * list(SETS).index(dataset)
        + 3 * (split == "x-valid")
        + (seed - 777) / 1000
        + 5 * (split == "x-test")
    )


def _results(index: int, epochs: int, seeds: tuple[int, ...], name: str | None = None) -> dict:
    from nas_201_api import ArchResults, ResultsCount

    name = name or cell(index).name
    results = ArchResults(index, name)
    for dataset, splits in SETS.items():
        for seed in seeds:
            config = {"arch_str": name}
            last = {epochs - 1: 1.0}
            result = ResultsCount(
                dataset, None, last, last, 0.1 + index, 20.0 + index, config, seed, epochs, None
            )
            for split in splits:
                accuracy = _accuracy(index, epochs, dataset, split, seed)
                result.update_OLD_eval(
                    split,
                    {epochs - 2: 0.0, epochs - 1: accuracy},
                    {epochs - 2: 9.0, epochs - 1: 1.0},
                )
            results.update(dataset, seed, result)
    return results.state_dict()


@pytest.fixture
def official(tmp_path):
    """A file in the official layout with two of the cells, the second trained with two seeds."""
    trained = {0: (777,), 6: (777, 888)}
    content = {
        "meta_archs": [cell(i).name for i in range(8)],
        "evaluated_indexes": list(trained),
        "arch2infos": {
            i: {"less": _results(i, 12, (777,)), "full": _results(i, 200, seeds)}
            for i, seeds in trained.items()
        },
    }
    path = tmp_path / "NAS-Bench-201-v1_1.pth"
    torch.save(content, path)
    return path


@pytest.fixture
def nats(tmp_path):
    """The same two cells in NATS-Bench's layout: a folder with a compressed pickle for each."""
    folder = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    for name, content in (
        ("meta", {"meta_archs": [cell(i).name for i in range(8)], "evaluated_indexes": {0, 6}}),
        ("000000", {"12": _results(0, 12, (777,)), "200": _results(0, 200, (777,))}),
        ("000006", {"12": _results(6, 12, (777,)), "200": _results(6, 200, (777, 888))}),
    ):
        packed = bz2.compress(pickle.dumps(content))
        (folder / f"{name}.pickle.pbz2").write_bytes(packed)
    return folder


def test_a_folder_of_the_size_space_becomes_its_table(tmp_path):
    """Its longest trainings have 90 epochs, and its architectures are sizes."""
    folder = tmp_path / "NATS-sss-v1_0-50262-simple"
    folder.mkdir()
    for index in (0, 7):
        content = {
            name: _results(index, int(name), (777,), natssize.architecture(index).name)
            for name in ("01", "12", "90")
        }
        path = folder / f"{index:06d}.pickle.pbz2"
        path.write_bytes(bz2.compress(pickle.dumps(content)))
    convert(folder, tmp_path / "natssize.csv.gz", trust_pickle=True)
    reference = load(tmp_path / "natssize.csv.gz", "natssize")
    assert reference.known("cifar10_test") == [0, 7]
    for column, epochs in (("cifar100_test", 90), ("cifar100_test_12ep", 12)):
        expected = _accuracy(7, epochs, "cifar100", "x-test", 777)
        assert reference.values(column, [7])[0] == pytest.approx(expected)
    content = {name: _results(0, int(name), (777,)) for name in ("12", "200")}
    (folder / "000001.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(content)))
    with pytest.raises(UserError, match=r"nor_conv.* is not of natssize"):
        from_official(folder, trust_pickle=True)


def test_a_folder_of_nats_bench_gives_the_same_table(official, nats, tmp_path):
    for source, table in ((official, "file.csv"), (nats, "folder.csv")):
        convert(source, tmp_path / table, trust_pickle=True)
    assert (tmp_path / "file.csv").read_text() == (tmp_path / "folder.csv").read_text()
    with pytest.raises(UserError, match="--trust-pickle"):
        convert(nats, tmp_path / "table.csv")
    (nats / "000007.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps({"90": {}})))
    with pytest.raises(UserError, match=r"000007\.pickle\.pbz2 is not of NATS-Bench"):
        from_official(nats, trust_pickle=True)
    with pytest.raises(UserError, match=r"holds no files like 000000\.pickle"):
        from_official(tmp_path, trust_pickle=True)


def test_official_file_becomes_a_table(official, tmp_path):
    convert(official, tmp_path / "table.csv.gz", trust_pickle=True)
    reference = load(tmp_path / "table.csv.gz", "nasbench201")

    def mean(
        index: int, dataset: str, split: str, seeds: tuple[int, ...], epochs: int = 200
    ) -> float:
        return float(np.mean([_accuracy(index, epochs, dataset, split, seed) for seed in seeds]))

    for index, seeds in ((0, (777,)), (6, (777, 888))):
        expected = {
            "cifar10_valid": mean(index, "cifar10-valid", "x-valid", seeds),
            "cifar10_test": mean(index, "cifar10", "ori-test", seeds),
            "cifar100_valid": mean(index, "cifar100", "x-valid", seeds),
            "cifar100_test": mean(index, "cifar100", "x-test", seeds),
            "imagenet16_120_valid": mean(index, "ImageNet16-120", "x-valid", seeds),
            "imagenet16_120_test": mean(index, "ImageNet16-120", "x-test", seeds),
            "cifar10_valid_seed777": mean(index, "cifar10-valid", "x-valid", (777,)),
            "cifar10_test_12ep": mean(index, "cifar10", "ori-test", (777,), epochs=12),
            "n_seeds": len(seeds),
            "params_M": 0.1 + index,
            "flops_M": 20.0 + index,
        }
        for column, value in expected.items():
            assert reference.values(column, [index])[0] == pytest.approx(value), column
    assert reference.known("cifar10_test") == [0, 6]
    assert reference.known("cifar10_valid_seed888") == [6]


def test_a_table_that_is_there_is_kept_without_force(official, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("mine")
    with pytest.raises(UserError, match=r"table\.csv exists: .* --force"):
        convert(official, table, trust_pickle=True)
    assert table.read_text() == "mine"
    convert(official, table, trust_pickle=True, force=True)
    assert load(table, "nasbench201").known("cifar10_test") == [0, 6]


def test_official_file_needs_trust(official, tmp_path):
    with pytest.raises(UserError, match="--trust-pickle"):
        convert(official, tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no pickle")
    for wrong in ("other.pth", "text.pth"):
        with pytest.raises(UserError, match="not a NAS-Bench-201 file"):
            from_official(tmp_path / wrong, trust_pickle=True)
    with pytest.raises(UserError, match="does not exist"):
        from_official(tmp_path / "none.pth", trust_pickle=True)
