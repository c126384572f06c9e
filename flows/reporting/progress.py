"""Progress bars on the terminal, one line per step; none with --json."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_FORMAT = "{desc} {bar:24} {n_fmt}/{total_fmt}{unit} {elapsed} {postfix}"


class Progress:
    """Bars by step, made when first needed.

    Args:
        is_quiet: print nothing; counts are still reported to `watch`.
    """

    def __init__(self, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self._report: Callable[[str, int, int], None] | None = None
        self._bars: dict[str, tqdm] = {}
        # Step -> (done, total): a disabled bar counts nothing.
        self._counts: dict[str, tuple[int, int]] = {}

    def watch(self, report: Callable[[str, int, int], None]) -> None:
        """Calls `report` with (step, done, total) for every step so far, and from now on whenever a bar moves."""
        self._report = report
        for step, (done, total) in self._counts.items():
            report(step, done, total)

    def start(self, step: str, total: int, unit: str, delay_s: float = 0.0) -> None:
        """Opens the bar of a step; a step that ends within `delay_s` prints nothing."""
        self._bars[step] = tqdm(
            total=total, desc=f"{step:<9}", unit=f" {unit}", disable=self._is_quiet, file=sys.stderr, leave=True,
            dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 30, bar_format=_FORMAT, delay=delay_s,
        )  # fmt: skip
        self._count(step, 0, total)

    def add(self, step: str, count: int = 1, note: str = "") -> None:
        """Moves a bar on."""
        bar = self._bars[step]
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(count)
        done, total = self._counts[step]
        self._count(step, done + count, total)

    def _count(self, step: str, done: int, total: int) -> None:
        self._counts[step] = (done, total)
        if self._report:
            self._report(step, done, total)

    def set_total(self, step: str) -> Callable[[int, int], None]:
        """A callback (done, total) for work that reports its own size."""

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
    def step(self, step: str, unit: str = "step", delay_s: float = 0.0) -> Iterator[None]:
        """A step of a single unit, done when the block ends."""
        self.start(step, 1, unit, delay_s)
        yield
        self.add(step)
        self._bars.pop(step).close()
