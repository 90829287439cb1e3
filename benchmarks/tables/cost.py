"""Seconds a step and peak memory of every method, on random images of CIFAR's shape.

All are measured in one run, one after the other, each point in a process of its own, whose memory
no earlier point has grown. What is timed is a step of the run that `condense` would do, compiled
where that run would be; on a CPU the peak is the process's and includes compiling.
"""

from pathlib import Path
from typing import Any

from benchmarks.step import apart, noise_dataset
from benchmarks.tables.bench import TableBench, TableWork
from benchmarks.tables.lines import Place, TableScale, method_lines
from condense import UserError
from condense.data.catalogue import Source
from condense.device import reset_peak_memory
from condense.methods import METHODS
from condense.report import tables
from condense.report.blocks import Chart, Section, Table
from condense.report.charts import intervals
from condense.report.figures import panels, save_figure
from condense.report.papers import COST
from condense.runs.rehearsal import rehearse
from condense.training.score import Statistic

IPCS = {"smoke": (1,), "cpu": (1, 10, 50), "full": (1, 10, 50)}
HEADERS = ["method", "images per class", "seconds a step", "95 % interval", "peak, MB"]
HEADERS += ["paper: seconds, MB (A100)"]
TURNS = {"smoke": 2, "cpu": 10, "full": 100}
"""Counted steps of a point; the paper has 100."""


def measure(scale: TableScale, work: TableWork) -> dict[str, Any]:
    """The number of turns, and a record of each method and number of images per class."""
    records = []
    for ipc in IPCS[scale.name]:
        for method in METHODS:
            asked = method, scale, ipc, work.bench
            # Starting processes would take longer than all the steps of the smoke test.
            measured = point(*asked) if scale.name == "smoke" else apart(point, *asked)
            records.append({"method": method, "ipc": ipc, **measured})
            print(tables.markdown_row(_row(records[-1])), flush=True)
    return {"turns": TURNS[scale.name], "records": records}


def point(method: str, scale: TableScale, ipc: int, bench: TableBench) -> dict[str, Any]:
    """Seconds of each counted step, and the peak; or why there is none."""
    line, pixels = method_lines()[method], 8 if scale.name == "smoke" else 32
    try:
        recipe = Place(scale, Source(name="cifar10"), ipc).recipe(line, method)
        dataset = noise_dataset(pixels, per_class=max(recipe.real_batch, ipc))
        whole, steps = bench.with_experts(recipe, dataset), 1 + TURNS[scale.name]
        reset_peak_memory(bench.place)
        timed = rehearse(dataset, ipc=ipc, recipe=whole, device=bench.place.type, steps=steps)
    except UserError as error:
        return {"failed": str(error)}
    seconds = [round(one, 4) for one in timed.steps]
    of_steps = Statistic(tuple((one,) for one in seconds))
    low, high = of_steps.ci95 or (of_steps.mean, of_steps.mean)
    return {
        "recipe": recipe.to_json(),  # without the folder of the experts
        "device": timed.device,
        "seconds": seconds,
        "mean_s": of_steps.mean,
        "ci95_s": [max(0.0, low), high],
        "peak_MB": round(timed.peak_memory / 1e6),
    }


def title(document: dict[str, Any]) -> str:
    """What the table is called."""
    return "Seconds a step and peak memory by method"


def markdown(document: dict[str, Any]) -> list[str]:
    """The records as a table, beside the paper's."""
    return [
        f"# {title(document)}",
        "",
        *tables.markdown(HEADERS, map(_row, document["records"])),
        "",
        f"Random images of 10 classes; {document['turns']} counted steps of each, as published but "
        "for what the scale changes (network, real batch, inner loops: see the records). A step is "
        "what each method calls one: not equal work.",
    ]


def sections(document: dict[str, Any]) -> list[Section]:
    """Time and memory by method, a section for each number of images per class."""
    found = []
    for ipc in sorted({record["ipc"] for record in document["records"]}):
        records = [one for one in document["records"] if one["ipc"] == ipc]
        times, peaks = [], []
        for one in (one for one in records if "failed" not in one):
            point, (low, high) = {"name": one["method"], "source": "measured here"}, one["ci95_s"]
            times.append(point | {"seconds a step": one["mean_s"], "low": low, "high": high})
            peak = one["peak_MB"]
            peaks.append(point | {"peak memory, MB": peak, "low": peak, "high": peak})
        time = Chart("Time of a step, 95 % interval", intervals(times, "seconds a step", zero=True))
        memory = Chart("Peak memory", intervals(peaks, "peak memory, MB", zero=True))
        table = Table(HEADERS, [*map(_row, records)])
        found.append(Section(f"{ipc} per class", time, memory, table))
    return found


def _row(record: dict[str, Any]) -> list[Any]:
    ipcs = IPCS["full"]
    paper = ""
    if record["method"] in COST and record["ipc"] in ipcs:
        place = ipcs.index(record["ipc"])
        paper = ", ".join(text.split()[place] for text in COST[record["method"]])
    if "failed" in record:
        cells = [record["failed"], "", ""]
    else:
        low, high = record["ci95_s"]
        cells = [f"{record['mean_s']:.3g}", f"{low:.3g} to {high:.3g}", record["peak_MB"] or ""]
    return [record["method"], record["ipc"], *cells, paper]


def draw(folder: Path, title: str, document: dict[str, Any]) -> None:
    """Time and memory against the images per class, a line for each method."""
    records = document["records"]
    figure, both = panels(9, 4, columns=2)
    time, memory = both[0]
    for number, method in enumerate(METHODS):
        points = [one for one in records if one["method"] == method and "failed" not in one]
        x = [point["ipc"] for point in points]
        style = {"marker": "osD^v<>"[number % 7], "color": f"C{number % 10}", "label": method}
        arms = [[abs(p["ci95_s"][end] - p["mean_s"]) for p in points] for end in (0, 1)]
        time.errorbar(x, [point["mean_s"] for point in points], yerr=arms, capsize=3, **style)
        memory.plot(x, [point["peak_MB"] for point in points], **style)
    time.set(yscale="log", ylabel="seconds a step, 95 % intervals")
    memory.set(ylabel="peak memory, MB", ylim=(0, None))
    ipcs = sorted({record["ipc"] for record in records})
    for axes in (time, memory):
        axes.set(xscale="log", xlabel="images per class")
        axes.set_xticks(ipcs, list(map(str, ipcs)))
        axes.xaxis.minorticks_off()
    figure.legend(*time.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    save_figure(figure, folder / f"{title}.png")
