"""Measure networks on data: `python scripts/evaluate.py --checkpoint P --suite NAME`. What is counted is in `train.scores`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, this folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import click

from scripts.options import NETWORKS_OWN, refuse_idle
from utils.errors import UserError

LISTS = ("--checkpoint", "--iterations", "--cascades")
PLOTTED = ("epe", "bad_2", "d1_all", "mae", "3px")


class Lists(click.Command):
    """`--iterations 2 5 10` beside `--iterations 2 --iterations 5 --iterations 10`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            if len(spread) > 1 and not arg.startswith("-") and not spread[-1].startswith("-") and spread[-2] in LISTS:
                spread.append(spread[-2])
            spread.append(arg)
        return super().parse_args(ctx, spread)


@click.command(cls=Lists, context_settings={"show_default": True})
@click.option("--checkpoint", "checkpoints", multiple=True, required=True, help="Weights of any kind, or sgbm. Several are compared.")
@click.option("--suite", required=True, help="A file, or a name in configs/eval: scenes, middlebury2014, kitti2015, ...")
@click.option("--data_root", type=click.Path(path_type=Path), help="Where the suite's paths start.  [default: $STEREOFOUNDRY_DATA]")
@click.option("--iterations", multiple=True, type=click.IntRange(min=1), help="Refinement iterations; several are swept.")
@click.option("--cascades", multiple=True, type=click.IntRange(1, 6), default=(1,), help="Coarse-to-fine levels; several are swept.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file of the results; the tables as CSV beside it.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder of an HTML report with error maps and the sweep's plot.")
@click.option("--pictures", type=click.IntRange(min=0), default=6, help="Worst images of the report, per model.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: a GPU where there is one]")
@click.option("--max_samples", type=click.IntRange(min=1), help="Only so many images of each data set, evenly spread: a first look.")
@click.option("--tracker", is_flag=True, help="Add the means to the MLflow run that each checkpoint is of.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the network: --set model.disparity_attention=heads.")
def main(**options) -> None:
    """Errors of networks on the images of a suite, at their native size, under a protocol that is written beside every result."""
    try:
        _evaluate(**options)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


def _evaluate(
    checkpoints: tuple[str, ...], suite: str, data_root: Path | None, iterations: tuple[int, ...], cascades: tuple[int, ...],
    output: Path | None, report: Path | None, pictures: int, precision: str, device: str | None, max_samples: int | None, tracker: bool,
    overrides: tuple[str, ...],
) -> None:  # fmt: skip
    from tqdm import tqdm  # these take seconds, and --help needs none of them

    from train import measure_report as reports
    from train.measure import Processes, measure, plan_runs, worst
    from train.predictors import SGBM, build_predictor, choose_device
    from train.suites import first_of_each, load_suite, model_changes, open_suite
    from utils.files import check_json_target

    if set(checkpoints) == {SGBM}:
        refuse_idle(NETWORKS_OWN, "with sgbm")
    if report is None:
        refuse_idle(("pictures",), "without --report")
    if output is not None:
        check_json_target(output)
    processes = Processes()
    place = choose_device(device or processes.device)
    tasks = open_suite(load_suite(suite), data_root)
    tasks = tasks if max_samples is None else first_of_each(tasks, max_samples)
    changes = model_changes(overrides)
    runs = plan_runs(checkpoints, iterations, cascades)
    records, predictors = [], []
    for run in runs:
        about = {"model": run.name, "suite": suite, "iterations": run.iterations, "cascades": run.cascades, "precision": precision}
        predict = build_predictor(
            run.checkpoint, place, iterations=run.iterations, cascades=run.cascades, precision=precision, changes=changes
        )
        about |= {"changes": changes, "scales": None if predict.settings is None else predict.settings.scales}
        with tqdm(total=len(tasks), desc=run.name, unit="pair", disable=not (processes.first and sys.stderr.isatty())) as bar:
            progress = lambda bar=bar: bar.update(processes.count)  # noqa: E731
            record = measure(predict, tasks, about, device=place, processes=processes, progress=progress)
        records.append(record)
        if report is not None:
            predictors.append(predict)  # it draws the pictures; networks are large, and there may be many
    if not processes.first:
        return
    keys = ["model", "iterations", "cascades"]
    rows = reports.comparison(records, keys)
    click.echo(reports.as_text(rows) if len(records) > 1 else reports.as_table(records[0]))
    try:
        if output is not None:
            reports.write_results(output, records, rows)
        if report is not None:
            if len(records) > 1:
                reports.plot_sweep(report / "sweep.png", records, PLOTTED)
            shown = {reports.called(r, keys): [(task, p) for task in worst(r, pictures)] for r, p in zip(records, predictors, strict=True)}
            click.echo(f"report: {reports.write_report(report, f'{suite}', records, keys, shown)}")
    except OSError as error:
        raise UserError(f"{error.filename or report}: cannot be written ({error.strerror or error}); pass a place that can") from None
    if tracker:
        from train.measure_tracking import track

        for record, run in zip(records, runs, strict=True):
            click.echo(f"recorded in MLflow: {track(record, run.checkpoint, report)}")


if __name__ == "__main__":
    main()
