"""`svdp batch`: many videos in one process with one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from . import options as o

EXIT_FAILED = 1

Jobs = Annotated[Path, typer.Argument(help="TOML or CSV file of jobs, or a folder.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Folder of the videos. [default: beside the list]", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(batch)


def batch(
    jobs: Jobs,
    out: Out = None,
    overwrite: o.Overwrite = False,
    weights: o.Weights = None,
    base: o.Base = None,
    adapter: o.Adapter = None,
    autoencoder: o.Autoencoder = None,
    strength: o.Strength = 1.0,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
) -> None:
    r"""Animate a list of jobs with one model.

    A job that fails does not stop the others; a summary comes at the end, and the exit code is 1 if any failed. Run the
    same command again after an interruption: what is done is kept. Under `accelerate launch -m svdp.cli batch ...`
    each process takes its share of the list, on its own card.

    JOBS.toml:
      root = "media"             # optional: where paths start, relative to the file
      \[defaults]                 # optional: settings for all jobs, named as the options of `svdp animate`
      steps = 2
      [\[job]]
      source = "anna.png"
      driving = "speech.mp4"
      output = "anna.mp4"        # optional, in --out; as is any setting: max_frames = 72

    JOBS.csv has the same names in its first line. A FOLDER stands for each of its pictures with each of its videos.
    """
    from ..animation.batch import Outcome, local_device, my_share, read_jobs, run_jobs, wait_for_others
    from .app import console
    from .interrupt import Interrupted, StopRequest
    from .progress import Screen

    chosen = my_share(read_jobs(jobs, out))
    folder = out or (jobs if jobs.is_dir() else jobs.parent)
    model = None
    if not all(job.settings.get("draft") for job in chosen):
        from ..animation.api import load_model

        model = load_model(
            weights, base=base, adapter=adapter, autoencoder=autoencoder,
            strength=strength, device=local_device(device), dtype=dtype,
        )  # fmt: skip
    outcomes: list[Outcome] = []
    code = 0

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        screen.clear()
        place = f"{len(outcomes)} of {len(chosen)}: {escape(str(outcome.job.output))}"
        told = {
            "done": f"[green]done[/] {place} in {outcome.seconds:.1f} s",
            "kept": f"there already {place}",
            "failed": f"[red]failed[/] {place}: {escape(outcome.reason)}",
        }
        screen.say(told[outcome.state])
        if outcome.state == "done":
            print(outcome.job.output)

    try:
        with StopRequest() as stop, Screen(console) as screen:
            run_jobs(chosen, model, folder, overwrite=overwrite, display=screen, stop=stop, on_outcome=tell)
    except Interrupted as interrupted:
        console.print(f"[yellow]{interrupted}:[/] {escape(interrupted.kept)}; run again to go on", soft_wrap=True)
        code = interrupted.exit_code
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("done", "kept", "failed")}
    left = len(chosen) - len(outcomes)
    console.print(
        f"{counts['done']} done, {counts['kept']} there already, {counts['failed']} failed"
        + (f", {left} not begun" if left else ""),
        soft_wrap=True,
    )
    for outcome in failed:
        console.print(f"failed {outcome.job.output}: {outcome.reason}", markup=False, soft_wrap=True)
    if not code:
        wait_for_others()
    raise typer.Exit(code or (EXIT_FAILED if failed else 0))
