"""Train, infer and evaluate, from data to a page of results: `python run.py --help`.

There are two tasks, `classification` and `segmentation`, with files of the same names: read one of them. The blocks:

1. data: `<task>_data.py` has the dataset, its split and its augmentation; `loaders.py` the samplers and batches
2. model: `<task>_network.py` is the network, plain PyTorch; `make_model` in `<task>.py` gives it its keys
3. losses and 4. metrics: `make_losses` and `make_metrics` in `<task>.py`; `dice_by_class.py` is a metric of one's own
5. optimizer: `optimizer.py` has the optimizer and the schedule of the learning rate
6. train: `module_ready_made.py` is the LightningModule; `training.py` runs it, and resumes it
7. infer: `predict` in `training.py`, and `save_predictions` in `<task>_report.py`
8. evaluate: `evaluate` in `<task>_report.py`; `figures.py` and `page.py` show it

`main` below calls them in this order. To make it yours, change one task's files; delete the other's.
"""

import argparse
import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from fuse_lightning.run_folder import PREDICTIONS_FILE

from . import classification, segmentation
from .figures import draw_learning_curves, read_learning_curves
from .loaders import make_training_loader
from .module_ready_made import STYLE, make_module
from .page import write_page
from .settings import BadInputError, Settings, add_settings, make_settings, read_config, write_config
from .start_run import MODEL_DIR, newest_run, start_run_folder
from .task import Evaluation, Splits, Task
from .training import BEST_CHECKPOINT, check_accelerator, predict, train
from .wiring import check_keys, write_wiring

TASKS: dict[str, Task] = {"classification": classification, "segmentation": segmentation}
STAGES = ("train", "infer", "eval")
RUNS_DIR = Path("runs")
INTERRUPTED = 130  # the exit code after Ctrl-C: by convention, 128 and the number of the signal
GIVEN = {field.name for field in dataclasses.fields(Settings)} - {"style"}  # settings that arguments give

MakeModule = Callable[[Task, nn.Module, Settings, Path], pl.LightningModule]


def parse_arguments(
    arguments: list[str] | None, command: str, parents: list[argparse.ArgumentParser]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options of this call, and the settings of the run that were given."""
    parser = argparse.ArgumentParser(prog=command, description=__doc__.splitlines()[0], parents=parents)
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="what to do (default: train infer eval)"
    )
    parser.add_argument(
        "--run-dir", type=Path, help=f"the run folder (default: {RUNS_DIR}/<task>-<date>-<time>, for a new run)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the training of the run in --run-dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="fail where the accuracy, or the mean Dice, is lower"
    )
    add_settings(parser)
    options = parser.parse_args(arguments)
    if options.resume and (options.overwrite or "train" not in options.stages):
        parser.error("--resume goes on with training: not with --overwrite, nor without the stage train")
    if options.overwrite and "train" not in options.stages:
        parser.error("--overwrite is for a new run: not without the stage train")
    return options, {name: value for name, value in vars(options).items() if name in GIVEN}


def main(
    arguments: list[str] | None = None,
    *,
    command: str = "python run.py",
    style: str = STYLE,
    make_module: MakeModule = make_module,
    parents: list[argparse.ArgumentParser] | None = None,
) -> None:
    """The command line.

    Args:
        arguments: of the command line; None takes the program's.
        command: what was typed to get here, for messages that say how to go on.
        style: the name of the LightningModule's style, kept in `config.yaml`.
        make_module: makes the LightningModule.
        parents: parsers of more arguments, to be listed by `--help`.
    """
    options, given = parse_arguments(arguments, command, parents or [])
    try:
        run_stages(options, given, command, style, make_module)
    except BadInputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run_stages(
    options: argparse.Namespace, given: Mapping[str, Any], command: str, style: str, make_module: MakeModule
) -> None:
    """From the data to the page, or the part of it that was asked for."""
    settings, run_dir = prepare(options, given, style)
    task = TASKS[settings.task]
    splits = task.load_splits(settings)  # block 1
    pl.seed_everything(settings.seed, workers=True)
    model = task.make_model(splits)  # block 2
    module = make_module(task, model, settings, run_dir / MODEL_DIR)  # blocks 3 to 5: it asks the task and optimizer.py
    if "train" in options.stages:
        first_batch = next(iter(make_training_loader(task, splits.train, settings)))
        wiring = check_keys(module, task.PREDICTION_KEYS, first_batch)  # stops here where a key is misspelled
        if not options.resume:
            start_run_folder(run_dir, options.overwrite)
            write_config(run_dir, settings)
        write_wiring(wiring, run_dir)
        start = time.perf_counter()
        # Block 6. What is trained is in the module then, and in the run folder, from where the next stages take it.
        try:
            train(task, module, splits, settings, run_dir)
        except KeyboardInterrupt:
            to_go_on = f"{command} --resume --run-dir {shlex.quote(str(run_dir))}"
            raise KeyboardInterrupt(f"interrupted. To go on: {to_go_on}") from None
        print(f"training time: {time.perf_counter() - start:.1f} s")
    if "infer" in options.stages:  # block 7
        task.save_predictions(predict(task, module, splits, settings, run_dir), run_dir)
    if "eval" in options.stages:  # block 8
        evaluation = evaluate(task, splits, settings, run_dir)
        print(f"{evaluation.score_name}: {evaluation.score:.4f}")
    print(f"run folder: {run_dir.resolve()}")
    if "eval" in options.stages and not evaluation.score >= options.min_score:  # so that NaN fails too
        sys.exit(f"error: the {evaluation.score_name} {evaluation.score:.4f} is below --min-score {options.min_score}")


def prepare(options: argparse.Namespace, given: Mapping[str, Any], style: str) -> tuple[Settings, Path]:
    """The settings and the folder of a new run, or of one to go on with. Nothing is written yet.

    Raises:
        BadInputError: what was asked for cannot be done; says how it can.
    """
    stages, run_dir = options.stages, options.run_dir
    if "train" in stages and not options.resume:
        settings = make_settings(given, style)
        run_dir = run_dir or RUNS_DIR / f"{settings.task}-{datetime.now():%Y%m%d-%H%M%S}"
    else:
        if run_dir is None:
            newest = newest_run(RUNS_DIR)
            hint = f"The newest is {newest}." if newest else f"There is none in {RUNS_DIR}: train first."
            raise BadInputError(f"to go on with a run, or to infer or evaluate alone, give its --run-dir. {hint}")
        settings = read_config(run_dir, given, style)
        if "train" not in stages:
            if "infer" in stages and not (run_dir / MODEL_DIR / BEST_CHECKPOINT).exists():
                raise BadInputError(f"{run_dir} has no {MODEL_DIR}/{BEST_CHECKPOINT} to predict with. Train first.")
            if "infer" not in stages and not (run_dir / PREDICTIONS_FILE).exists():
                raise BadInputError(f"{run_dir} has no {PREDICTIONS_FILE} to evaluate. Use --stages infer eval.")
    check_accelerator(settings.accelerator)
    return settings, run_dir


def evaluate(task: Task, splits: Splits, settings: Settings, run_dir: Path) -> Evaluation:
    """Compare predictions and truth, draw, and write `evaluation.json` and the page."""
    evaluation = task.evaluate(run_dir, splits)
    epochs = read_learning_curves(run_dir)
    monitored = epochs[task.BEST_EPOCH_SOURCE["monitor"]]
    best = monitored.argmin() if task.BEST_EPOCH_SOURCE["mode"] == "min" else monitored.argmax()
    best_epoch = int(epochs.index[int(best)])
    epochs.to_csv(run_dir / "learning_curves.csv")
    draw_learning_curves(epochs, task.CURVES, best_epoch, run_dir / "learning_curves.png")
    numbers = {"score_name": evaluation.score_name, "score": evaluation.score, **evaluation.numbers}
    (run_dir / "evaluation.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    write_page(run_dir, settings, evaluation, best_epoch)
    return evaluation


if __name__ == "__main__":
    main()
