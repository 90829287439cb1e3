"""What the DataDAM paper prints, for the column beside ours.

In percent, mean and standard deviation over 5 sets x 20 networks.

Its ablations of p, lambda, error, normalisation, start, augmentation and training stage are
pictures or empty in the text that is at hand, so they have no figure here.
"""

Figures = dict[tuple[str, str], str]
"""(row, column) -> figure."""


def _columns(datasets: str, *ipcs: int) -> list[str]:
    return [f"{dataset} IPC {ipc}" for dataset in datasets.split() for ipc in ipcs]


_COLUMNS = _columns("cifar10 cifar100 tinyimagenet", 1, 10, 50)
# Table 1, the columns in order; table 11 for the generative models and pixel MMD; - where it has
# none.
_MAIN = {
    "random": "14.4/2.0 26.0/1.2 43.4/1.0 4.2/0.3 14.6/0.5 30.0/0.4 1.4/0.1 5.0/0.2 15.0/0.4",
    "herding": "21.5/1.2 31.6/0.7 40.4/0.6 8.3/0.3 17.3/0.3 33.7/0.5 2.8/0.2 6.3/0.2 16.7/0.3",
    "kcenter": "21.5/1.3 14.7/0.9 27.0/1.4 8.4/0.3 17.3/0.3 30.5/0.3 - - -",
    "forgetting": "13.5/1.2 23.3/1.0 23.3/1.1 4.5/0.2 15.1/0.3 - 1.6/0.1 5.1/0.2 15.0/0.3",
    "dd": "- 36.8/1.2 - - - - - - -",
    "ld": "25.7/0.7 38.3/0.4 42.5/0.4 11.5/0.4 - - - - -",
    "dc": "28.3/0.5 44.9/0.5 53.9/0.5 12.8/0.3 25.2/0.3 30.6/0.6 5.3/0.1 12.9/0.1 12.7/0.4",
    "dsa": "28.8/0.7 52.1/0.5 60.6/0.5 13.9/0.3 32.3/0.3 42.8/0.4 5.7/0.1 16.3/0.2 5.1/0.2",
    "dm": "26.0/0.8 48.9/0.6 63.0/0.4 11.4/0.3 29.7/0.3 43.6/0.4 3.9/0.2 12.9/0.4 25.3/0.2",
    "cafe": "31.6/0.8 50.9/0.5 62.3/0.4 14.0/0.3 31.5/0.2 42.9/0.2 - - -",
    "kip": "29.8/1.0 46.1/0.7 53.2/0.7 12.0/0.2 29.0/0.3 - - - -",
    "datadam": "32.0/1.2 54.2/0.8 67.0/0.4 14.5/0.5 34.8/0.5 49.4/0.3 8.3/0.4 18.7/0.3 28.7/0.3",
    # Not in its tables: by MTT's authors, as means.
    "mtt": "46.3 65.3 71.6 24.3 40.1 47.7 8.8 23.2 28.0",
    "cgan": "16.3/1.4 27.9/1.1 43.8/0.9 - - - - - -",
    "gmmn": "16.1/2.0 32.2/1.3 45.3/0.9 - - - - - -",
    "vae": "15.7/2.1 29.8/1.0 44.0/0.8 - - - - - -",  # its DC-VAE, a larger model than ours
    "mmd": "22.7/0.6 34.9/0.3 50.9/0.3 - - - - - -",
}
_SAME = {"datadam, scale 100": "datadam"}
"""A line that is what the figures of another were meant to be."""

_HIGH_COLUMNS = _columns("imagenet-1k", 1, 2, 10, 50)
_HIGH_COLUMNS += _columns("imagenette imagewoof imagesquawk", 1, 10)
_HIGH = {  # table 2
    "random": "0.5/0.1 0.9/0.1 3.1/0.2 7.6/1.2 23.5/4.8 47.7/2.4 "
    "14.2/0.9 27.0/1.9 21.8/0.5 40.2/0.4",
    "dm": "1.3/0.1 1.6/0.1 5.7/0.1 11.4/0.9 32.8/0.5 58.1/0.3 21.1/1.2 31.4/0.5 31.2/0.7 50.4/1.2",
    "datadam": "2.0/0.1 2.2/0.1 6.3/0.0 15.5/0.2 34.7/0.9 "
    "59.4/0.4 24.2/0.5 34.4/0.4 36.4/0.8 55.4/0.9",
}

_CROSS_COLUMNS = ["convnet", "alexnet", "vgg11", "resnet18"]
_CROSS = {  # table 3, IPC 50
    "dc from convnet": "53.9/0.5 28.8/0.7 38.8/1.1 20.9/1.0",
    "cafe from convnet": "62.3/0.4 43.2/0.4 48.8/0.5 43.3/0.7",
    "dsa from convnet": "60.6/0.5 53.7/0.6 51.4/1.0 47.8/0.9",
    "dm from convnet": "63.0/0.4 60.1/0.5 57.4/0.8 52.9/0.4",
    "kip from convnet": "56.9/0.4 53.2/1.6 53.2/0.5 47.6/0.8",
    "datadam from convnet": "67.0/0.4 63.9/0.9 64.8/0.5 60.2/0.7",
    "datadam from alexnet": "61.8/0.6 60.6/0.9 61.8/0.6 56.4/0.7",
    "datadam from vgg11": "56.5/0.4 53.7/1.5 56.2/0.6 52.0/0.7",
}

ABLATION: Figures = {  # tables 5 and 6, IPC 10
    ("loss: attention and mmd", "IPC 10"): "54.2 ± 0.8",
    ("loss: attention alone", "IPC 10"): "49.8 ± 0.7",
    ("loss: mmd alone", "IPC 10"): "48.9 ± 0.6",
    ("attention of layer 1 alone", "IPC 10"): "50.2 ± 0.4",
    ("attention of layer 2 alone", "IPC 10"): "51.5 ± 1.0",
}


def _table(columns: list[str], rows: dict[str, str]) -> Figures:
    return {
        (row, column): figure.replace("/", " ± ")
        for row, text in rows.items()
        for column, figure in zip(columns, text.split(), strict=True)
        if figure != "-"
    }


MAIN = _table(_COLUMNS, _MAIN | {line: _MAIN[other] for line, other in _SAME.items()})
HIGH_RESOLUTION = _table(
    _HIGH_COLUMNS, _HIGH | {line: _HIGH[other] for line, other in _SAME.items()}
)
CROSS = _table(_CROSS_COLUMNS, _CROSS)
COST = {  # table 4, two A100s: seconds a step at IPC 1, 10 and 50, and MB of GPU memory
    "dc": ("0.16 3.31 15.74", "3515 3621 4527"),
    "dsa": ("0.22 4.47 20.13", "3513 3639 4539"),
    "dm": ("0.08 0.08 0.08", "3323 3455 3605"),
    "mtt": ("0.36 0.40 OOM", "2711 8049 OOM"),
    "datadam": ("0.09 0.08 0.16", "3452 3561 3724"),
}


def figures(column: str) -> dict[str, tuple[float, float]]:
    """The figures of a column of the main table by method: mean and standard deviation, in percent.

    >>> figures("cifar10 IPC 1")["datadam"]
    (32.0, 1.2)
    >>> figures("digits IPC 1")
    {}
    """
    found = {row: text.split(" ± ") for (row, of), text in MAIN.items() if of == column}
    return {
        row: (float(mean), float(*deviation) if deviation else 0.0)
        for row, (mean, *deviation) in found.items()
        if row not in _SAME
    }
