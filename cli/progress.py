"""The progress bar: what is being done, how far it is, how long it will take."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Screen:
    """One line per stage of a run on a console. `Stage` counts units; a stage without a total shows a spinner.

    Use as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]:heavy_check_mark:[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int | None = None, unit: str = "") -> Stage:
        """A new line."""
        return Stage(self._progress, self._progress.add_task(name, total=total, unit=unit))

    def clear(self) -> None:
        """Take all stages away."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, soft_wrap=True)


class Stage:
    """One stage of a run."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, units: int = 1) -> None:
        """So many units more are done."""
        self._progress.advance(self._task, units)

    def done(self) -> None:
        """The stage is finished, however many units it took."""
        task = next(t for t in self._progress.tasks if t.id == self._task)
        self._progress.update(self._task, total=task.completed or 1, completed=task.completed or 1)
