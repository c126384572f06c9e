"""One line of progress per step on the terminal; silent where nobody watches or JSON is asked for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_FORMAT = "{desc} {bar:24} {n_fmt}/{total_fmt}{unit} {elapsed} {postfix}"


class Progress:
    """Bars by step, made when first needed.

    Args:
        is_quiet: nothing on the terminal.
        watch: told (step, done, total) whenever a bar moves.
    """

    def __init__(self, is_quiet: bool = False, watch: Callable[[str, int, int], None] | None = None) -> None:
        self._is_quiet = is_quiet
        self._watch = watch
        self._bars: dict[str, tqdm] = {}
        self._done: dict[str, int] = {}

    def start(self, step: str, total: int, unit: str) -> None:
        """Opens the bar of a step."""
        self._bars[step] = tqdm(
            total=total, desc=f"{step:<9}", unit=f" {unit}", disable=self._is_quiet, file=sys.stderr, leave=True,
            dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30, bar_format=_FORMAT,
        )  # fmt: skip
        self._done[step] = 0
        self._tell(step)

    def add(self, step: str, count: int = 1, note: str = "") -> None:
        """Moves a bar on."""
        bar = self._bars[step]
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(count)
        self._done[step] += count
        self._tell(step)

    def _tell(self, step: str) -> None:
        # A disabled bar counts nothing, so the counts are kept here.
        if self._watch:
            self._watch(step, self._done[step], int(self._bars[step].total or 0))

    def set_total(self, step: str) -> Callable[[int, int], None]:
        """A callback (done, total) for work that tells its own size."""

        def report(done: int, total: int) -> None:
            bar = self._bars[step]
            bar.total = total
            bar.update(done - bar.n)

        return report

    def close(self) -> None:
        """Ends all bars."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    @contextmanager
    def step(self, step: str, unit: str = "step") -> Iterator[None]:
        """A step that is done at once."""
        self.start(step, 1, unit)
        yield
        self.add(step)
        self._bars.pop(step).close()
