"""What a run keeps for its report: its losses, the time of its steps, and its images at some steps.

history.json        losses and seconds of a step
frames/step-N.png   the images after step N

Both are thinned as they grow: every second is then left out. They never decide what a run does, so
a file that is damaged is begun again.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense.errors import UserError
from condense.reading import open_file, read_json
from condense.report.figures import png_bytes
from condense.report.frames import Tiles
from condense.sets.condensed import CondensedSet
from condense.settings import read_value, within
from condense.writing import write_bytes, write_json

if TYPE_CHECKING:
    from PIL import Image

_MOST_POINTS = 1000
_MOST_FRAMES = 8
_NUMBERS = tuple[float, ...]
_FILE, _FRAMES = "history.json", "frames"


@dataclass
class History:
    """The losses and times of a run, by step.

    >>> history = History()
    >>> history.add(10, {"mmd": 0.5}, seconds=0.1)
    >>> history.losses
    {'mmd': [0.5]}
    """

    steps: list[int] = field(default_factory=list)
    """The steps that were looked at."""
    seconds: list[float] = field(default_factory=list)
    """The mean time of a step since the look before."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Each term of the loss."""

    @classmethod
    def of(cls, folder: Path, *, until: int | None = None) -> "History":
        """What the run in `folder` has kept, until a step; nothing if it has kept nothing.

        Raises `UserError` for a damaged file.

        >>> History.of(Path("nowhere")).steps
        []
        """
        path = folder / _FILE
        if not path.exists():
            return cls()
        with within(f"{path} is damaged"):
            fields = read_value(dict[str, Any], read_json(path), "history")
            kept = cls(
                list(read_value(tuple[int, ...], fields.get("steps"), "steps")),
                list(read_value(_NUMBERS, fields.get("seconds"), "seconds")),
                {
                    name: list(read_value(_NUMBERS, values, name))
                    for name, values in read_value(
                        dict[str, Any], fields.get("losses"), "losses"
                    ).items()
                },
            )
        if any(len(one) != len(kept.steps) for one in (kept.seconds, *kept.losses.values())):
            raise UserError(f"{path} is damaged: its lists differ in length")
        number = sum(until is None or step <= until for step in kept.steps)
        kept._leave(slice(number))
        return kept

    def add(self, step: int, losses: Mapping[str, float], seconds: float) -> None:
        """Add what was seen at a step."""
        self.steps.append(step)
        self.seconds.append(seconds)
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)
        if len(self.steps) > _MOST_POINTS:
            self._leave(slice(1, None, 2))

    def save(self, folder: Path) -> None:
        """Write it into the folder of the run."""
        write_json(folder / _FILE, asdict(self))

    def _leave(self, part: slice) -> None:
        """Forget all but a part."""
        self.steps, self.seconds = self.steps[part], self.seconds[part]
        self.losses = {name: values[part] for name, values in self.losses.items()}


def resumed(folder: Path, done: int) -> History:
    """The history of the run in `folder` until step `done`; a damaged one is begun again.

    >>> resumed(Path("nowhere"), done=200).steps
    []
    """
    try:
        return History.of(folder, until=done)
    except UserError as error:
        print(f"{error}; the curves of the report begin here", file=sys.stderr)
        return History()


def keep_frame(folder: Path, step: int, state: CondensedSet) -> None:
    """Keep the images of a run as they are after a step; thin the frames if they are many.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import noise
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> keep_frame(Path("run"), 200, noise(digits, 1, preprocess=preprocess, seed=0))
    >>> [(step, image.size) for step, image in frames(Path("run"))]
    [(200, (32, 24))]
    """
    write_bytes(_frame(folder, step), png_bytes(Tiles.of(state).picture(state)))
    kept = _steps(folder)
    if len(kept) > _MOST_FRAMES:
        for other in kept[::2]:
            _frame(folder, other).unlink(missing_ok=True)


def frames(folder: Path) -> "list[tuple[int, Image.Image]]":
    """The steps of the frames in the folder of a run, and the frames; damaged ones are left out.

    >>> frames(Path("nowhere"))
    []
    """
    from PIL import Image

    found = []
    for step in _steps(folder):
        try:
            with open_file(_frame(folder, step)) as file, Image.open(file) as image:
                found.append((step, image.convert(image.mode)))
        except (OSError, ValueError, SyntaxError, UserError, Image.DecompressionBombError):
            continue
    return found


def _steps(folder: Path) -> list[int]:
    names = [path.stem.partition("-")[2] for path in (folder / _FRAMES).glob("step-*.png")]
    return sorted(int(name) for name in names if name.isdigit())


def _frame(folder: Path, step: int) -> Path:
    return folder / _FRAMES / f"step-{step:08d}.png"
