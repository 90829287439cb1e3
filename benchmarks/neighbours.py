"""What a busy neighbour costs: a step alone and beside other processes, by how its threads wait.

OpenMP's threads spin a number of times before they sleep. GNU's library spins 300,000 times unless
it is told otherwise. The commands tell it not to (`condense.threads`); this measures the choice.
Each point is a fresh process, since the library reads the number when it is loaded.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import click

from benchmarks import results
from condense.command import guard

SPINS = (300_000, 10_000, 1_000, 100, 0)
STEP = """
import json, time
from benchmarks.step import Setting, loops
from condense.device import pick_device
engine = loops(Setting(ipc=10, size=32, real_batch=64), pick_device("cpu"))["engine"]
taken = []
for number in range({turns} + 3):
    began = time.perf_counter()
    engine.step(number)
    taken.append(time.perf_counter() - began)
print(json.dumps(taken[3:]))
"""


def seconds(spins: int, busy: int, turns: int) -> list[float]:
    """The seconds of each of `turns` steps, beside `busy` processes that never wait."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(spins)}
    loop = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(loop) for _ in range(busy)]
    try:
        command = [sys.executable, "-c", STEP.format(turns=turns)]
        root = Path(__file__).parents[1]
        return json.loads(subprocess.check_output(command, cwd=root, env=environment))
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


@click.command()
@click.option("--turns", default=8, show_default=True, help="Counted steps of each point.")
@click.option("--busy", default=1, show_default=True, help="Busy processes beside the step.")
@click.option("--name", default="neighbours", show_default=True, help="Name of the result files.")
def main(turns: int, busy: int, name: str) -> None:
    """Time a step by how often its threads spin, alone and beside busy processes."""
    records, conditions = [], results.conditions()
    lines = [
        f"| spins | a step alone, s | beside {busy} busy process(es), s | times as long |",
        "|---|---|---|---|",
    ]
    for spins in SPINS:
        alone, beside = (seconds(spins, count, turns) for count in (0, busy))
        records.append({"spins": spins, "alone_s": alone, "beside_s": beside})
        a, b = median(alone), median(beside)
        lines.append(f"| {spins:,} | {a:.3f} | {b:.3f} | {b / a:.1f} |")
        click.echo(lines[-1])
    note = "Medians. 10 classes of 32 px, IPC 10, 64 real images a class, instance norm, compiled."
    results.write(name, {"conditions": conditions, "records": records}, [*lines, "", note])


if __name__ == "__main__":
    guard.run(main)
