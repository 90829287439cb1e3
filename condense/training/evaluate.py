"""What a condensed set is worth: the accuracy on real test images of networks trained on it alone.

One call takes one set or several (of one recipe, from other seeds), and one network or several (a
cross-architecture table). A number of a published table is one of 5 sets with 20 networks each.

An evaluation is a study (see `condense.study.study`). Each of its tasks trains one network, and its
trial is kept as soon as that network is tested. The accuracy depends on the set and its position
among the sets, on architecture, protocol, seed, repeat and test images. All of these are in the key
of the trial, so a store may hold any number of evaluations, and none takes another's numbers.

Choices (a recipe, a rate) are made with `dataset.hold_out(count, seed)`: condense and evaluate on
what it returns, whose test images are held-out training images. Real test images are for the end.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import cloudpickle
import torch
from torch import Tensor

from condense.data.images import Dataset, Images
from condense.data.own import Own, as_dataset
from condense.errors import UserError
from condense.networks.build import build, canonical
from condense.networks.factories import Factory, adopt, adopt_sent, adopted
from condense.progress import Progress
from condense.progress import progress as bar
from condense.randomness import derive
from condense.reading import usable_path
from condense.sets.condensed import CondensedSet
from condense.sets.provenance import check_belongs, check_same_preprocess
from condense.settings import require
from condense.study.study import MOST_TASKS, Store, Study, as_workers
from condense.study.trials import Key, Trial, Trials
from condense.study.workers import Workers
from condense.training.protocol import Protocol, protocol_for
from condense.training.repeats import Repeats
from condense.training.score import Score
from condense.training.train import check_labels

KIND = "evaluate"
"""The kind of the trials of evaluations in a store."""


def evaluate(
    sets: CondensedSet | str | Path | Sequence[CondensedSet | str | Path],
    dataset: Dataset | Own,
    networks: str | Factory | Sequence[str | Factory] | Mapping[str, str | Factory] = ("convnet",),
    repeats: int = 20,
    protocol: Protocol | str = "dm",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    *,
    workers: Workers | int | None = None,
    minutes: float | None = None,
    store: str | Path | Store | None = None,
    quiet: bool = False,
) -> dict[str, Score]:
    """Train `repeats` networks of each architecture on each set, and test them on `dataset.test`.

    Parameters
    ----------
    sets: made from `dataset` under one preprocessing, which the test images get too; a path stands
        for the set in that file or run folder.
    dataset: what `load_dataset` gives, or `as_dataset(train, test)` of a dataset of your own.
    networks: names, or functions of the image shape and the number of classes that make a module;
        the result has a `Score` for each name, which for a function is `MODULE:NAME`. A dictionary
        gives them names of your choice: `{"w8": f, "w64": g}`. Weights are drawn by our rules
        (`condense.networks.build.initialise`), whoever made the module.
    protocol: a name of `condense.training.protocol.PROTOCOLS`, or a `Protocol`, taken literally. (A
        name never mirrors digits.)
    seed: with a set's position and the repeat it determines weights, order and augmentation, so
        more repeats extend fewer.
    device: `auto`, `cpu` or `cuda`; `Workers` have their own.
    progress: told after every network how many are done, those found in the store included, in
        place of the bar on stderr.
    workers: what the networks are trained on: `condense.study.workers.Workers`, or a number of
        processes; this process unless given. As everywhere, another number of threads may change
        the last bits of a network's weights.
    minutes: stop after that long, without an error. A score is then over the repeats that are
        finished on every set, and an architecture that has none is left out of the result.
    store: a file, made where there is none, or an open store. What it holds is not trained again,
        and each network is kept there as soon as it is tested. Unless given, nothing is kept.
    quiet: show no bar.

    Raises `UserError` for a set that does not belong to `dataset` (other classes, shape, content or
    preprocessing), for unknown names, for a damaged store, and when a training diverges;
    `Interrupted` on Ctrl-C and SIGTERM.

    >>> from condense import Protocol, load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> standard = make_preprocess("standard", digits)
    >>> few = select("random", digits, 1, preprocess=standard, seed=0)
    >>> quick = Protocol(epochs=2, augment="none")
    >>> score = evaluate(few, digits, "mlp", repeats=3, protocol=quick, device="cpu")["mlp"]
    >>> len(score.accuracies), 0 <= score.mean <= 1
    (3, True)
    """
    named = _named(networks)
    names = tuple(named.values())
    bench = Evaluation.of(_loaded(sets), as_dataset(dataset), names, repeats, protocol, seed)
    workers = as_workers(workers or 0, device)
    workers.check()
    lost = "nothing is kept without a store: give one to go on"
    how = lost if store is None else "the same call goes on"
    with _opened(store) as trials:
        study = Study(trials, bench.tasks, bench.key)
        hushed = quiet or progress is not None
        with bar("evaluate", study.total, study.done, quiet=hushed) as shown:
            report = bench.reporter(progress or shown)
            study.work(bench, workers, report, how_to_go_on=how, minutes=minutes)
        scores = bench.scores(study.results())
    return {shown: scores[name] for shown, name in named.items() if name in scores}


@dataclass(frozen=True, slots=True)
class Task:
    """One network: trained on one set, then tested.

    >>> Task("convnet", 0, 3).repeat
    3
    """

    network: str
    """The name, as the user gave it."""
    position: int
    """Which of the sets, from 0."""
    repeat: int
    """Which of the networks of that name on that set, from 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """All that the networks of an evaluation share: the bench of the study. Make one by `of`.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> few = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    >>> bench = Evaluation.of(few, digits, ("mlp", "convnet"), 3, Protocol(epochs=2), seed=0)
    >>> len(bench.tasks), bench.name(bench.tasks[1]), bench.tested_on
    (6, 'network 2 of `mlp` on set 1', '362 test images of digits')
    >>> results = {task: {"accuracy": 0.5 + task.repeat / 10} for task in bench.tasks[:2]}
    >>> scores = bench.scores(results)
    >>> {name: score.accuracies for name, score in scores.items()}
    {'mlp': (0.5, 0.6)}
    """

    sets: tuple[CondensedSet, ...]
    """Under one preprocessing."""
    protocols: tuple[Protocol, ...]
    """How networks are trained on each set, the rate that was learned with it filled in."""
    test: Images
    """What networks are tested on, before preprocessing."""
    tested_on: str
    """The same in words."""
    networks: tuple[str, ...]
    """Names, none twice."""
    own: dict[str, Factory]
    """The functions among them, for the workers."""
    repeats: int
    """Networks of each name on each set."""
    seed: int
    """All random numbers follow from it."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(
        cls,
        sets: CondensedSet | Sequence[CondensedSet],
        dataset: Dataset,
        networks: str | Factory | Sequence[str | Factory],
        repeats: int,
        protocol: Protocol | str,
        seed: int,
    ) -> Self:
        """The evaluation that these arguments of `evaluate` describe.

        Raises its `UserError`s here, so that what is wrong shows before the first hour of training.
        """
        sets = (sets,) if isinstance(sets, CondensedSet) else tuple(sets)
        names = tuple(_named(networks))
        if not sets or not names or repeats < 1:
            raise UserError(
                f"nothing to evaluate: {len(sets)} sets, {len(names)} networks, {repeats} repeats; "
                "give one of each or more"
            )
        if not len(dataset.test):
            raise UserError(
                f"{dataset.name} has no test images: give both splits, `as_dataset(train, test)`"
            )
        tasks = len(sets) * len(names) * repeats
        require("repeats", repeats, tasks <= MOST_TASKS, f"fewer: this is {tasks:,} trainings")
        for condensed in sets:
            check_belongs(condensed, dataset)
        check_same_preprocess(sets)
        if isinstance(protocol, str):
            protocol = protocol_for(protocol, dataset.name)
        require("protocol", protocol, isinstance(protocol, Protocol), "a name, or a `Protocol`")
        for condensed in sets:
            check_labels(condensed.labels, protocol)
        for name in names:
            build(name, dataset.shape, len(dataset.classes))
        return cls(
            sets=sets,
            protocols=tuple(_with_learned_rate(protocol, condensed) for condensed in sets),
            test=dataset.test,
            tested_on=dataset.tested_on,
            networks=names,
            own=adopted(names),
            repeats=repeats,
            seed=seed,
        )

    @cached_property
    def tasks(self) -> list[Task]:
        """All networks: architecture by architecture, and then repeat by repeat on all sets."""
        return [
            Task(name, position, repeat)
            for name in self.networks
            for repeat in range(self.repeats)
            for position in range(len(self.sets))
        ]

    def key(self, task: Task) -> Key:
        """What the trial of a network is called in a store: all that its accuracy depends on."""
        condensed = self.sets[task.position]
        return Key.of(
            KIND,
            set=condensed.fingerprint,
            seed=self._seed(task.position),
            network=canonical(task.network, condensed.shape),
            protocol=asdict(self.protocols[task.position]),
            repeat=task.repeat,
            test=self.test.fingerprint,
        )

    def name(self, task: Task) -> str:
        """A network in a few words, for messages."""
        return f"network {task.repeat + 1} of `{task.network}` on set {task.position + 1}"

    def to(self, device: torch.device) -> Self:
        """The same, to be worked on `device`; what is to be there goes there when it is used."""
        return self if device == self.device else replace(self, device=device)

    def run(self, task: Task) -> dict[str, Any]:
        """Train and test a network: its `accuracy` in [0, 1], and in words what it is `tested_on`.

        Raises `Diverged` (a `UserError`) when its weights cease to be finite.
        """
        networks = self._networks(task.network, task.position)
        return {"accuracy": networks.accuracy(task.repeat), "tested_on": self.tested_on}

    def reporter(self, progress: Progress) -> Callable[[int, Trial], None]:
        """What a study calls after each network: it reports name and accuracy to `progress`."""
        names = {self.key(task): task.network for task in self.tasks}

        def report(done: int, trial: Trial) -> None:
            progress(done, f"{names[trial.key]} {trial.result['accuracy']:.1%}")

        return report

    def seconds(self, tasks: Sequence[Task]) -> float:
        """How long these networks take, one after another; some steps of each name are timed."""
        names = Counter(task.network for task in tasks)
        return sum(count * self._networks(name, 0).seconds() for name, count in names.items())

    def scores(self, results: Mapping[Task, dict[str, Any]]) -> dict[str, Score]:
        """A score for each architecture, over the repeats that are finished on every set.

        An architecture without such a repeat has none.
        """
        scores, positions = {}, range(len(self.sets))
        for name in self.networks:
            whole = [
                repeat
                for repeat in range(self.repeats)
                if all(Task(name, position, repeat) in results for position in positions)
            ]
            found = [results[Task(name, position, r)] for position in positions for r in whole]
            if found:
                accuracies = tuple(result["accuracy"] for result in found)
                scores[name] = Score(accuracies, len(self.sets))
        return scores

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: the fields, and not the networks and images of this process.

        The functions that make networks may be lambdas, or of the script that runs.
        """
        state = {one.name: getattr(self, one.name) for one in fields(self)}
        return state | ({"own": cloudpickle.dumps(self.own)} if self.own else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker: the functions that make networks are made known there."""
        if state["own"]:
            state = state | {"own": cloudpickle.loads(state["own"])}
        self.__dict__.update(state)
        adopt_sent(self.own)

    def _seed(self, position: int) -> int:
        return derive(self.seed, "evaluate", position)

    @cached_property
    def _tests(self) -> tuple[Tensor, Tensor]:
        """The test images in the space of the sets, and their labels, on the device."""
        images = self.sets[0].preprocess.apply(self.test.pixels)
        return images.to(self.device), self.test.labels.to(self.device)

    @cached_property
    def _networks(self) -> Callable[[str, int], Repeats]:
        """`_begun`, which keeps what it made for as many sets as there are: an architecture's."""
        return lru_cache(maxsize=len(self.sets))(self._begun)

    def _begun(self, name: str, position: int) -> Repeats:
        return Repeats(
            name,
            self.sets[position],
            self._tests,
            self.repeats,
            self.protocols[position],
            self._seed(position),
            self.device,
        )


def _loaded(sets: Any) -> list[CondensedSet]:
    """The sets that are meant, those that a path stands for read from their files."""
    given = sets if _several(sets) else [sets]
    return [one if isinstance(one, CondensedSet) else CondensedSet.load(one) for one in given]


def _several(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _named(networks: Any) -> dict[str, str]:
    """The name that each network is built by, under the name that its score goes by.

    Raises `UserError` for two functions of one name: only one of them would be evaluated.
    """
    if isinstance(networks, Mapping):
        return {
            shown: one if isinstance(one, str) else adopt(one, f"own:{shown}")
            for shown, one in networks.items()
        }
    named: dict[str, Any] = {}
    for one in networks if _several(networks) else [networks]:
        name = one if isinstance(one, str) else adopt(one)
        if named.setdefault(name, one) is not one and not isinstance(one, str):
            raise UserError(
                f"two networks are called `{name}`: name them, as in "
                '`networks={"narrow": f, "wide": g}`'
            )
    return {name: name for name in named}


@contextmanager
def _opened(store: str | Path | Store | None) -> Iterator[Store]:
    """The store that is meant: the file of that name, the store itself, or one in memory."""
    if store is None or isinstance(store, str | Path):
        with Trials(":memory:" if store is None else usable_path(store)) as opened:
            yield opened
    else:
        yield store


def _with_learned_rate(protocol: Protocol, condensed: CondensedSet) -> Protocol:
    """`protocol`, with the rate that was learned with the set where it asks for that."""
    if not protocol.learned_rate:
        return protocol
    learned = condensed.provenance.get("learned", {})
    if "lr" not in learned:
        raise UserError(
            "the set has no learning rate of its own, as `mtt` learns one: "
            "evaluate it by protocol `dm`"
        )
    return replace(protocol, lr=learned["lr"])
