"""Evaluation: the statistics against closed forms and simulation, the runs on the real digits."""

import dataclasses
import json
import math
import pickle
import signal
import time
from importlib import import_module

import pytest
import torch

from condense.data.catalogue import load_dataset
from condense.data.images import Dataset, Images
from condense.data.preprocess import Standardize, Whiten
from condense.errors import UserError
from condense.methods.selection import select
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.study.interrupt import Interrupted
from condense.study.trials import Trials
from condense.study.workers import Workers
from condense.training.evaluate import Evaluation, evaluate
from condense.training.protocol import PROTOCOLS, Protocol
from condense.training.score import Score
from condense.training.train import train

NETWORK = "convnet-d2-w16"
QUICK = Protocol(epochs=4, augment="dsa-noflip")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def whitened(digits):
    return select("random", digits, 2, preprocess=Whiten.fit(digits.train.pixels), seed=0)


def run(sets, data, **options):
    defaults = {"networks": NETWORK, "repeats": 2, "protocol": QUICK, "device": "cpu"}
    return evaluate(sets, data, **(defaults | options))


# ---- statistics


def test_score_of_one_set_by_hand():
    score = Score((0.5, 0.6, 0.7))
    assert score.mean == pytest.approx(0.6)
    assert score.std == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t with 2 degrees of freedom, from a table
    assert score.ci95 == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)
    assert score.per_set == ((0.5, 0.6, 0.7),)


def test_score_of_several_sets_is_over_their_means():
    score = Score((0.50, 0.52, 0.60, 0.62, 0.70, 0.72), sets=3)
    assert score.per_set == ((0.50, 0.52), (0.60, 0.62), (0.70, 0.72))
    assert score.mean == pytest.approx(0.61)
    half = 4.302653 * 0.1 / math.sqrt(3)  # means 0.51, 0.61, 0.71
    assert score.ci95 == pytest.approx((0.61 - half, 0.61 + half), abs=1e-6)
    assert score.std == pytest.approx(math.sqrt((2 * 0.11**2 + 2 * 0.09**2 + 2 * 0.01**2) / 5))


def test_a_single_value_has_no_interval_and_intervals_stay_accuracies():
    assert (Score((0.4,)).std, Score((0.4,)).ci95) == (0.0, (0.0, 1.0))
    assert Score((0.4, 0.6), sets=2).ci95 == (0.0, 1.0)  # half-width 1.27
    assert Score((0.5, 0.5)).ci95 == (0.5, 0.5)


def test_the_interval_covers_the_truth_in_95_of_100_studies():
    """Simulated studies of 5 sets x 20 networks, whose sets differ by 0.02 and networks by 0.01
    about 0.6.
    """
    draw = torch.Generator().manual_seed(0)
    luck = 0.02 * torch.randn(2000, 5, 1, generator=draw, dtype=torch.float64)
    studies = (
        (0.6 + luck + 0.01 * torch.randn(2000, 5, 20, generator=draw, dtype=torch.float64))
        .flatten(1)
        .tolist()
    )

    def coverage(sets):
        intervals = [Score(tuple(study), sets).ci95 for study in studies]
        return sum(low <= 0.6 <= high for low, high in intervals) / 2000

    assert coverage(5) == pytest.approx(0.95, abs=0.025)  # five standard errors
    assert coverage(1) < 0.6  # the networks taken for independent


def test_score_as_json():
    score = Score((0.5, 0.6, 0.7, 0.8), sets=2)
    document = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert document == {
        "accuracies": [0.5, 0.6, 0.7, 0.8],
        "sets": 2,
        "mean": score.mean,
        "std": score.std,
        "ci95": list(score.ci95),
    }


# ---- runs


def test_real_digits_teach_far_more_than_chance(digits):
    """Ten real images a class.

    Chance is 10 % and 36 test images are right by luck, give or take 6: 60 % is no luck.
    """
    condensed = select(
        "random", digits, 10, preprocess=Standardize.fit(digits.train.pixels), seed=0
    )
    score = run(condensed, digits, protocol=Protocol(epochs=150, augment="dsa-noflip"))[NETWORK]
    assert score.accuracies[0] != score.accuracies[1]
    assert min(score.accuracies) > 0.6
    shuffled = dataclasses.replace(
        condensed, labels=condensed.labels.roll(10)
    )  # every class under another name
    assert (
        run(shuffled, digits, repeats=1, protocol=Protocol(epochs=60, augment="dsa-noflip"))[
            NETWORK
        ].mean
        < 0.1
    )


def test_a_run_is_training_by_hand_and_testing_in_the_set_s_own_space(digits, whitened):
    score = run(whitened, digits, seed=9)[NETWORK]
    test = (digits.test.pixels.float() / 255 - whitened.preprocess.mean).flatten(
        1
    ) @ whitened.preprocess.matrix
    for repeat, measured in enumerate(score.accuracies):
        model = build(NETWORK, digits.shape, 10)
        initialise(model, derive(9, "evaluate", 0), repeat)
        train(
            model,
            whitened.images,
            whitened.labels,
            QUICK,
            derive(derive(9, "evaluate", 0), "train", repeat),
        )
        model.eval()
        with torch.no_grad():
            right = model(test.view(-1, *digits.shape)).argmax(1) == digits.test.labels
        assert measured == pytest.approx(
            right.double().mean().item(), abs=2.1 / len(right)
        )  # two ties may round otherwise


def test_the_seed_decides_and_more_repeats_extend_fewer(digits, whitened):
    three = run(whitened, digits, repeats=3)[NETWORK].accuracies
    assert run(whitened, digits, repeats=2)[NETWORK].accuracies == three[:2]
    assert len(set(three)) > 1
    assert run(whitened, digits, repeats=3, seed=1)[NETWORK].accuracies != three


def test_several_sets_and_networks_in_one_call(digits, whitened):
    other = select("random", digits, 2, preprocess=whitened.preprocess, seed=1)
    told = []
    scores = run(
        [whitened, other],
        digits,
        networks=[NETWORK, "convnet-d1-w8", NETWORK],
        progress=lambda done, note="": told.append(done),
    )
    assert list(scores) == [NETWORK, "convnet-d1-w8"]
    assert [(score.sets, len(score.accuracies)) for score in scores.values()] == [(2, 4), (2, 4)]
    assert scores[NETWORK].per_set[0] == run(whitened, digits)[NETWORK].accuracies
    assert told == list(range(1, 9))
    twice = run([whitened, whitened], digits, repeats=3)[NETWORK]
    assert twice.per_set[0] != twice.per_set[1]  # no network twice


@pytest.mark.parametrize(("how", "told"), [
    ({}, "evaluate: 2/2"), ({"quiet": True}, ""), ({"progress": lambda done, note="": None}, ""),
])  # fmt: skip
def test_the_bar_is_shown_unless_someone_else_tells_of_it(digits, whitened, capsys, how, told):
    run(whitened, digits, **how)
    errors = capsys.readouterr().err
    assert told in errors if told else not errors


def test_soft_labels_and_protocols_by_name(digits, whitened, monkeypatch):
    soft = dataclasses.replace(
        whitened, labels=torch.nn.functional.one_hot(whitened.labels, 10).float()
    )
    assert run(soft, digits)[NETWORK].accuracies == pytest.approx(
        run(whitened, digits)[NETWORK].accuracies, abs=0.01
    )
    monkeypatch.setitem(PROTOCOLS, "dm", Protocol(epochs=4))
    assert run(whitened, digits, protocol="dm") == run(
        whitened, digits
    )  # digits: QUICK, which does not mirror


def test_evaluation_works_on_held_out_images(digits):
    reduced = digits.hold_out(100, seed=0)
    condensed = select(
        "random", reduced, 1, preprocess=Standardize.fit(reduced.train.pixels), seed=0
    )
    (accuracy,) = run(condensed, reduced, repeats=1)[NETWORK].accuracies
    assert accuracy * 100 == pytest.approx(round(accuracy * 100))  # of 100 images
    with pytest.raises(UserError, match=r"made from digits with content .* and the split"):
        run(condensed, digits)


# ---- a study

HERE = Workers(workers=0, threads=1, device="cpu")


def test_what_is_in_the_store_is_not_trained_again(digits, whitened, tmp_path, monkeypatch):
    file, counts = tmp_path / "evaluations.sqlite", []
    report = lambda done, note="": counts.append((done, note.split()[0]))  # noqa: E731
    two = run(whitened, digits, store=file)[NETWORK].accuracies
    three = run(whitened, digits, repeats=3, store=file, progress=report)[NETWORK].accuracies
    assert counts == [(3, NETWORK)]
    assert three[:2] == two
    assert three == run(whitened, digits, repeats=3)[NETWORK].accuracies
    monkeypatch.setattr(import_module("condense.training.repeats"), "train", None)
    full = "convnet-d2-w16-instance-relu-avg"  # another name of the same network
    assert run(whitened, digits, networks=full, repeats=3, store=file)[full].accuracies == three
    with Trials(file) as store:
        assert run(whitened, digits, repeats=3, store=store)[NETWORK].accuracies == three


def test_a_store_mixes_no_evaluations(digits, whitened, tmp_path):
    reduced = digits.hold_out(100, seed=0)
    foreign = dataclasses.replace(whitened, provenance={})  # says of no split that it is its own
    slower = dataclasses.replace(QUICK, lr=0.001)
    kinds = [
        (whitened, digits, {}),
        (whitened, digits, {"seed": 1}),
        (whitened, digits, {"protocol": slower}),
        (whitened, digits, {"networks": "convnet-d1-w16"}),
        (foreign, reduced, {}),
        ([whitened, whitened], digits, {}),
    ]

    def measure(store):
        measured = [run(*sets, **options, store=store) for *sets, options in kinds]
        return [score.accuracies for scores in measured for score in scores.values()]

    file = tmp_path / "evaluations.sqlite"
    alone = measure(None)
    assert measure(file) == alone
    assert measure(file) == alone
    with Trials(file) as store:
        assert len(store) == 2 * len(kinds)  # the last one's first set was measured before


def test_two_processes_measure_what_one_does(digits, whitened):
    other = select("random", digits, 2, preprocess=whitened.preprocess, seed=1)
    networks, sets = [NETWORK, "convnet-d1-w8"], [whitened, other]
    expected = run(sets, digits, networks=networks, workers=HERE)
    workers = Workers(workers=2, threads=1, device="cpu")
    assert run(sets, digits, networks=networks, workers=workers) == expected


@pytest.mark.slow
def test_a_ray_cluster_measures_what_one_process_does(digits, whitened):
    ray = pytest.importorskip("ray")
    workers = Workers(cluster="local", threads=1, device="cpu")
    try:
        found = run(whitened, digits, workers=workers)
    finally:
        ray.shutdown()
    assert found == run(whitened, digits, workers=HERE)


def test_at_the_end_of_the_time_scores_are_over_what_every_set_has(digits, whitened, tmp_path):
    many = {"repeats": 4, "networks": [NETWORK, "mlp"], "store": tmp_path / "e.sqlite"}
    two = [whitened, whitened]
    assert run(two, digits, **many, minutes=1e-6) == {}

    def report(done, note=""):
        if done == 5:  # two repeats on both sets, the third on one
            time.sleep(60)  # until the time is up

    scores = run(two, digits, **many, minutes=4 / 60, progress=report)
    assert scores == run(two, digits, store=many["store"])
    assert list(scores) == [NETWORK]


def test_an_interrupt_keeps_what_is_measured(digits, whitened, tmp_path):
    def interrupt(done, note=""):
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    options = {"repeats": 3, "progress": interrupt}
    with pytest.raises(Interrupted, match="after 2 of 3; nothing is kept without a store"):
        run(whitened, digits, **options)
    with pytest.raises(Interrupted, match="after 2 of 3; the same call goes on"):
        run(whitened, digits, **options, store=tmp_path / "e.sqlite")
    with Trials(tmp_path / "e.sqlite") as store:
        assert len(store) == 2


def test_compiling_is_decided_by_all_repeats_whichever_are_left(
    digits, whitened, tmp_path, monkeypatch
):
    pixels = []

    def accelerate(network, passed, device):
        pixels.append(passed)
        return network

    monkeypatch.setattr(import_module("condense.training.repeats"), "accelerate", accelerate)
    run(whitened, digits, repeats=3)
    run(whitened, digits, repeats=1, store=tmp_path / "e.sqlite")
    run(whitened, digits, repeats=3, store=tmp_path / "e.sqlite")
    assert pixels[0] == pixels[2] == 3 * pixels[1]


def test_a_bench_that_has_worked_travels_without_its_networks(digits, whitened):
    bench = Evaluation.of(whitened, digits, NETWORK, 2, QUICK, seed=0)
    size = len(pickle.dumps(bench))
    result = bench.run(bench.tasks[0])
    assert len(pickle.dumps(bench)) == size
    assert pickle.loads(pickle.dumps(bench)).run(bench.tasks[0]) == result


# ---- refusals


def test_a_set_of_another_dataset_is_refused(digits, whitened):
    images = digits.train
    renamed = Images(images.pixels, images.labels, tuple("abcdefghij"))
    with pytest.raises(UserError, match=r"classes \(0, 1, .*dataset letters has \(a, b"):
        run(whitened, Dataset("letters", renamed, renamed))
    smaller = Images(images.pixels[..., :6], images.labels, images.classes)
    with pytest.raises(UserError, match=r"shape \(1, 8, 8\), dataset small has \(1, 8, 6\)"):
        run(whitened, Dataset("small", smaller, smaller))
    changed = Images(255 - images.pixels, images.labels, images.classes)
    with pytest.raises(UserError, match=rf"content {digits.fingerprint}, and negative"):
        run(whitened, Dataset("negative", changed, changed))
    other = dataclasses.replace(whitened, provenance={"imported": "x.pt", "dataset": "letters"})
    run(
        other, Dataset("negative", changed, changed), repeats=1
    )  # an import records no content to compare


def test_a_set_under_another_preprocessing_is_refused(digits, whitened):
    standard = select("random", digits, 2, preprocess=Standardize.fit(digits.train.pixels), seed=0)
    with pytest.raises(UserError, match=r"set 1 is preprocessed by zca \w+, set 2 by standard \w+"):
        run([whitened, standard], digits)
    recorded = {**whitened.provenance, "preprocess": whitened.preprocess.fingerprint}
    run(dataclasses.replace(whitened, provenance=recorded), digits, repeats=1)
    swapped = dataclasses.replace(whitened, preprocess=standard.preprocess, provenance=recorded)
    for provenance in (recorded, {"merged": [standard.provenance, recorded]}):
        with pytest.raises(
            UserError,
            match=f"under preprocessing {whitened.preprocess.fingerprint} and now carries standard",
        ):
            run(dataclasses.replace(swapped, provenance=provenance), digits)


def test_nothing_and_unknown_names_are_refused_before_training(digits, whitened, monkeypatch):
    # By `import_module`, since the package has a function of the module's name. Training would
    # fail.
    monkeypatch.setattr(import_module("condense.training.repeats"), "train", None)
    for options in ({"repeats": 0}, {"networks": []}):
        with pytest.raises(UserError, match="nothing to evaluate"):
            run(whitened, digits, **options)
    with pytest.raises(UserError, match="nothing to evaluate"):
        run([], digits)
    with pytest.raises(UserError, match="unknown network"):
        run(whitened, digits, networks=[NETWORK, "resnet19"])
    with pytest.raises(UserError, match="unknown protocol"):
        run(whitened, digits, protocol="dn")
    with pytest.raises(UserError, match="a Dataset is no condensed set: give one, or its file"):
        run(digits, digits)
    with pytest.raises(UserError, match="`workers` is 'two': it must be a number of processes"):
        run(whitened, digits, workers="two")


def flat(width):
    def make(shape, classes):
        hidden = torch.nn.Linear(math.prod(shape), width)
        return torch.nn.Sequential(torch.nn.Flatten(), hidden, torch.nn.Linear(width, classes))

    return make


def test_two_functions_of_one_name_are_told_apart_by_names_of_their_own(digits, whitened, tmp_path):
    with pytest.raises(
        UserError, match=r"two networks are called `.*flat.<locals>.make`: name them"
    ):
        run(whitened, digits, networks=[flat(2), flat(9)])
    file = whitened.save(tmp_path / "set.safetensors")
    how = {"repeats": 1, "protocol": Protocol(epochs=1), "workers": 0}
    scores = run(str(file), digits, networks={"w2": flat(2), "w9": flat(9), "ours": "mlp"}, **how)
    assert list(scores) == ["w2", "w9", "ours"]
    alone = [run(whitened, digits, networks=one, **how) for one in (flat(2), flat(9), "mlp")]
    assert list(scores.values()) == [score for one in alone for score in one.values()]
