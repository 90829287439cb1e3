"""The campaign's class-incremental streams: CIFAR-100 in 5 and in 10 steps.

Memories hold 20 images a class. All streams take them from the folder `memories.run`, so that no
class is condensed twice; git ignores it.
"""

import dataclasses
import shutil
from functools import partial

from benchmarks.campaign.workplace import Planned, Workplace
from benchmarks.continual import go_on
from condense.data.catalogue import Source
from continual.plan import Plan

Streams = dict[str, tuple[str, int, Plan]]
"""Name of the job -> dataset, its classes, and what is measured."""

_MEMORIES = ("random", "herding", "dm", "datadam:loss_scale=100", "best")
FULL: Streams = {
    f"continual-{steps}-steps": ("cifar100", 100, Plan(steps=steps, methods=_MEMORIES))
    for steps in (5, 10)
}
_SMALL = Plan(
    steps=2, methods=("random",), ipc=1, orders=1, repeats=1, epochs=2, network="convnet-d2-w8"
)
SMOKE: Streams = {"continual-digits": ("digits", 10, _SMALL)}


def plan(streams: Streams) -> Planned:
    """The jobs: the images each takes through a network (backward counts twice), name, work."""
    for name, (dataset, classes, measured) in streams.items():
        networks = measured.orders * measured.repeats * len(measured.methods)
        # From scratch at each step, on half of the images in the mean.
        images = 3 * (measured.epochs or 1000) * measured.steps * classes * measured.ipc / 2
        yield images * networks, name, partial(measure, dataset=dataset, plan=measured)


def measure(place: Workplace, name: str, *, dataset: str, plan: Plan) -> None:
    """Measure memories in a stream; stopped, it goes on behind the last network."""
    record, cache = place.record(name), place.out / "memories.run"
    folder = place.out / f"{name}.run"
    with place.leg(record, "continual"):
        real, source = place.dataset(dataset), Source(name=dataset, data_dir=place.data_dir)
        plan = dataclasses.replace(plan, device=place.workers.device)
        measured = go_on(real, plan, folder, source, cache=cache, workers=place.workers)
    shutil.copyfile(folder / "accuracy.png", place.out / f"{name}.png")
    final = ", ".join(f"{method} {measured.final(method)}" for method in plan.methods)
    record |= {"finished": True, "measured": measured.to_json()}
    place.keep(record, f"final accuracy, %: {final}")
    shutil.rmtree(folder)
