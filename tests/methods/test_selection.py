"""Selections against brute force.

Every choice by trying all candidates, in float64, one image at a time.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condense.data.images import Dataset, Images
from condense.data.preprocess import Standardize
from condense.errors import UserError
from condense.methods.selection import (
    SELECTIONS,
    forgetting_counts,
    herd,
    indices,
    noise,
    select,
    spread,
)
from condense.networks.build import build, initialise
from condense.randomness import derive
from condense.runs.run import condense

NETWORK = "convnet-d2-w4"


def dataset(counts, seed=0, shape=(1, 8, 8)):
    """Random images, `counts[c]` of class c, in mixed order."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=draw)]
    pixels = torch.randint(256, (len(labels), *shape), generator=draw, dtype=torch.uint8)
    images = Images(pixels, labels, tuple(f"class {c}" for c in range(len(counts))))
    return Dataset("toy", images, images)


def choose(method, data, ipc, seed=0, feature_epochs=None, network=NETWORK):
    if feature_epochs is None:
        feature_epochs = 2 if method == "forgetting" else 0
    preprocess = Standardize.fit(data.train.pixels)
    return indices(
        method,
        data,
        ipc,
        preprocess=preprocess,
        seed=seed,
        network=network,
        feature_epochs=feature_epochs,
        device="cpu",
    )


def herding_errors(points, chosen):
    """For each further candidate.

    How far the mean of all chosen would be from the mean of all points.
    """
    rest = [i for i in range(len(points)) if i not in chosen]
    return {i: (points.mean(0) - points[[*chosen, i]].mean(0)).norm().item() for i in rest}


def kcenter_errors(points, chosen):
    """For each further candidate.

    Minus its distance to the nearest chosen; at first, its distance to the mean.
    """
    rest = [i for i in range(len(points)) if i not in chosen]
    if not chosen:
        return {i: (points[i] - points.mean(0)).norm().item() for i in rest}
    return {i: -min((points[i] - points[j]).norm().item() for j in chosen) for i in rest}


def assert_greedy(points, chosen, errors, slack=1e-9):
    """Every choice is the best there was, given those before it.

    Up to rounding, since candidates can tie.
    """
    for k, choice in enumerate(chosen):
        candidates = errors(points, chosen[:k])
        assert candidates[choice] <= min(candidates.values()) + slack


points_and_count = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6)).flatmap(
    lambda case: st.tuples(
        st.just(
            torch.randn(
                case[0],
                case[1],
                generator=torch.Generator().manual_seed(case[2]),
                dtype=torch.float64,
            )
        ),
        st.integers(1, case[0]),
    )
)


@given(points_and_count)
@settings(max_examples=60, deadline=None)
def test_herding_and_kcenter_are_greedy(case):
    points, count = case
    for choose_points, errors in ((herd, herding_errors), (spread, kcenter_errors)):
        chosen = choose_points(points, count).tolist()
        assert len(chosen) == count
        assert_greedy(points, chosen, errors)


@pytest.mark.parametrize("choice", [herd, spread])
def test_copies_are_never_chosen_twice(choice):
    points = torch.tensor([[0.0, 1.0]] * 4 + [[2.0, 0.0]] * 2)
    assert sorted(choice(points, 6).tolist()) == [0, 1, 2, 3, 4, 5]


def test_kcenter_covers_within_twice_the_optimum():
    """The guarantee of the greedy algorithm (Gonzalez 1985), for the best of all sets of 3 that
    share its first centre.
    """
    points = torch.randn(14, 2, generator=torch.Generator().manual_seed(1))
    distances = torch.cdist(points, points)
    optimum = min(
        float(distances[:, [i, j, k]].min(1).values.max())
        for i in range(14)
        for j in range(i)
        for k in range(j)
    )
    assert float(distances[:, spread(points, 3)].min(1).values.max()) <= 2 * optimum


def test_forgetting_counts_by_hand():
    histories = {
        "11111": 0,
        "01111": 0,
        "00001": 0,
        "11110": 1,
        "10101": 2,
        "01010": 2,
        "10011": 1,
        "00000": 5,
    }
    answers = torch.tensor([[mark == "1" for mark in history] for history in histories]).T
    assert forgetting_counts(answers).tolist() == list(histories.values())


def test_forgetting_finds_what_is_never_learned():
    """Dark against bright images, three of each mislabelled.

    A network learns the rule and never those.
    """
    labels = torch.arange(2).repeat_interleave(40)
    pixels = (labels * 150 + 30)[:, None, None, None] + torch.randint(
        40, (80, 1, 8, 8), generator=torch.Generator().manual_seed(0)
    )
    wrong = torch.tensor([3, 17, 31, 44, 58, 79])
    labels[wrong] = 1 - labels[wrong]
    images = Images(pixels.to(torch.uint8), labels, ("dark", "bright"))
    data = Dataset("toy", images, images)
    # Instance norm is blind to brightness.
    chosen = indices(
        "forgetting",
        data,
        3,
        preprocess=Standardize.fit(images.pixels),
        seed=0,
        network="convnet-d1-w4-nonorm",
        feature_epochs=30,
    )
    assert set(chosen.tolist()) == set(wrong.tolist())


@pytest.mark.parametrize(
    ("method", "errors"), [("herding", herding_errors), ("kcenter", kcenter_errors)]
)
@pytest.mark.parametrize("network", [NETWORK, f"{NETWORK}-batch"])
def test_features_are_the_embedding_of_a_network_drawn_from_the_seed(method, errors, network):
    data = dataset([9, 14])
    preprocess = Standardize.fit(data.train.pixels)
    model = build(network, data.shape, 2)
    initialise(model, derive(5, "select"), 0)
    model = model.double().eval()
    for c, chosen in enumerate(
        choose(method, data, 6, seed=5, network=network).view(2, 6).tolist()
    ):
        members = [i for i in range(23) if data.train.labels[i] == c]
        with torch.no_grad():
            embeddings = [
                model.embed(preprocess.apply(data.train.pixels[i : i + 1]).double())[0]
                for i in members
            ]
        assert_greedy(
            torch.stack(embeddings), [members.index(i) for i in chosen], errors, slack=1e-5
        )  # features are float32


@given(
    st.sampled_from(sorted(SELECTIONS)),
    st.lists(st.integers(1, 8), min_size=2, max_size=4),
    st.integers(1, 8),
    st.integers(0, 50),
)
@settings(max_examples=40, deadline=None)
def test_any_choice_is_ipc_different_images_of_each_class(method, counts, ipc, seed):
    ipc, data = min(ipc, *counts), dataset(counts, seed)
    chosen = choose(method, data, ipc, seed)
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == len(chosen)
    assert data.train.labels[chosen].tolist() == [c for c in range(len(counts)) for _ in range(ipc)]
    assert chosen.equal(choose(method, data, ipc, seed))
    fewer = choose(method, data, max(1, ipc - 1), seed).view(len(counts), -1)
    assert chosen.view(len(counts), -1)[:, : fewer.shape[1]].equal(fewer)


def test_training_changes_what_is_chosen_and_so_does_the_seed():
    data = dataset([40, 40])
    assert choose("random", data, 5, seed=0).tolist() != choose("random", data, 5, seed=1).tolist()
    assert choose("herding", data, 5).tolist() != choose("herding", data, 5, seed=1).tolist()
    assert (
        choose("herding", data, 5).tolist()
        != choose("herding", data, 5, feature_epochs=20).tolist()
    )


def test_random_is_uniform():
    """Each of 6 images is drawn in half of 600 draws of 3.

    Within five standard deviations (12.2).
    """
    data = dataset([6])
    drawn = torch.cat([choose("random", data, 3, seed=seed) for seed in range(600)]).bincount(
        minlength=6
    )
    assert (drawn - 300).abs().max() <= 61


@pytest.mark.parametrize("method", sorted(SELECTIONS))
def test_select_packs_real_images_with_their_origin(method):
    data = dataset([5, 7, 6], shape=(3, 8, 8))
    preprocess = Standardize.fit(data.train.pixels)
    options = {
        "preprocess": preprocess,
        "seed": 4,
        "network": NETWORK,
        "feature_epochs": 2,
        "device": "cpu",
    }
    packed, chosen = select(method, data, 3, **options), indices(method, data, 3, **options)
    assert packed.pixels().equal(data.train.pixels[chosen])
    assert packed.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert packed.classes == data.classes
    assert packed.preprocess is preprocess
    facts = packed.provenance
    assert (facts["method"], facts["ipc"], facts["seed"]) == (method, 3, 4)
    assert facts["dataset"] == {"name": "toy", "fingerprint": data.fingerprint}
    assert facts.get("feature_epochs") == (None if method == "random" else 2)


def test_noise_is_standard_normal():
    data = dataset([1, 1, 1])
    packed = noise(data, 200, preprocess=Standardize.fit(data.train.pixels), seed=1)
    again = noise(data, 200, preprocess=packed.preprocess, seed=1)
    assert packed.images.equal(again.images)
    assert packed.images.shape == (600, 1, 8, 8)
    assert packed.labels.bincount().tolist() == [200, 200, 200]
    assert not packed.per_class(0).equal(packed.per_class(1))
    # Five standard errors of mean and variance of N = 12,800 numbers a class: 1 / sqrt(N) and
    # sqrt(2 / N).
    for c in range(3):
        assert abs(packed.per_class(c).mean().item()) < 5 / 12800**0.5
        assert abs(packed.per_class(c).var().item() - 1) < 5 * (2 / 12800) ** 0.5


def test_what_cannot_be_chosen_is_refused():
    data = dataset([5, 3, 4])
    with pytest.raises(
        UserError, match="ipc 4 is more than class `class 1` of toy has: 3 training images"
    ):
        choose("random", data, 4)
    with pytest.raises(UserError, match="ipc is '2': it must be 1 or more, a whole number"):
        condense(data, ipc="2")
    with pytest.raises(UserError, match="ipc is 0"):
        choose("random", data, 0)
    with pytest.raises(UserError, match="did you mean `herding`"):
        choose("hearding", data, 1)
    with pytest.raises(UserError, match="2 or more feature epochs"):
        choose("forgetting", data, 1, feature_epochs=1)


def test_a_choice_does_not_depend_on_what_was_asked_for_before():
    """One network serves several choices.

    That of another seed, length of training or dataset never does.
    """
    asked = [
        ("herding", 80, 0),
        ("kcenter", 80, 0),
        ("forgetting", 80, 0),
        ("kcenter", 0, 0),
        ("kcenter", 80, 1),
        ("herding", 80, 0),
    ]

    def chosen(data, method, epochs, seed):
        return choose(method, data, 3, seed=seed, feature_epochs=epochs).tolist()

    together, alone = dataset([12, 9]), [chosen(dataset([12, 9]), *one) for one in asked]
    assert [chosen(together, *one) for one in asked] == alone
    assert alone[1] != alone[3]
    assert alone[1] != alone[4]
