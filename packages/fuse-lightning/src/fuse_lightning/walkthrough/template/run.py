"""Train, infer and evaluate, from data to a page of results: `python run.py --help`.

There are two tasks, `classification` and `segmentation`. Each has files named after it; reading one task is enough.

1. data: `<task>_data.py` has the dataset, its splits and augmentation; `loaders.py` has samplers and batches
2. model: `<task>_network.py` has the network in plain PyTorch; `make_model` in `<task>.py` gives it keys
3. losses and 4. metrics: `make_losses` and `make_metrics` in `<task>.py`; `dice_by_class.py` is a custom metric
5. optimizer: `optimizer.py` has the optimizer and the learning rate schedule
6. train: `module_ready_made.py` has the LightningModule; `training.py` trains and resumes it
7. infer: `predict` in `training.py`, and `save_predictions` in `<task>_report.py`
8. evaluate: `evaluate` in `<task>_report.py`; `figures.py` and `results_page.py` show it

`main` below calls them in this order. To make the project yours, change one task's files and delete the other's.
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
from .results_page import write_page
from .settings import BadInputError, Settings, add_settings, make_settings, read_config, write_config
from .start_run import MODEL_DIR, newest_run, start_run_folder
from .task import Evaluation, Splits, Task
from .training import BEST_CHECKPOINT, check_accelerator, predict, train
from .wiring_page import check_keys, write_wiring

TASKS: dict[str, Task] = {"classification": classification, "segmentation": segmentation}
STAGES = ("train", "infer", "eval")
RUNS_DIR = Path("runs")
INTERRUPTED = 130  # the exit code after Ctrl-C: by convention, 128 plus the number of the signal
# The settings that are arguments of the command line.
GIVEN = {field.name for field in dataclasses.fields(Settings)} - {"style"}

MakeModule = Callable[[Task, nn.Module, Settings, Path], pl.LightningModule]


def parse_arguments(
    arguments: list[str] | None, command: str, parents: list[argparse.ArgumentParser]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options of this command, and the run's settings that were given."""
    parser = argparse.ArgumentParser(prog=command, description=__doc__.splitlines()[0], parents=parents)
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="what to do (default: train infer eval)"
    )
    parser.add_argument(
        "--run-dir", type=Path, help=f"the run folder (default: {RUNS_DIR}/<task>-<date>-<time>, for a new run)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the training in --run-dir")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
    parser.add_argument("--min-score", type=float, default=0.0, help="fail if the accuracy, or the mean Dice, is lower")
    add_settings(parser)
    options = parser.parse_args(arguments)
    if options.resume and (options.overwrite or "train" not in options.stages):
        parser.error("--resume continues a training: not with --overwrite, nor without the stage train")
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
        arguments: the arguments; None takes those of the program.
        command: the command that was typed, for messages that say how to continue.
        style: the name of the LightningModule's style, for `config.yaml`.
        make_module: makes the LightningModule.
        parents: parsers of further arguments, for `--help`.
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
    """Run the requested stages, from the data to the page."""
    settings, run_dir = prepare(options, given, style)
    task = TASKS[settings.task]
    splits = task.load_splits(settings)  # block 1
    pl.seed_everything(settings.seed, workers=True)
    model = task.make_model(splits)  # block 2
    module = make_module(task, model, settings, run_dir / MODEL_DIR)  # blocks 3 to 5, from the task and optimizer.py
    if "train" in options.stages:
        first_batch = next(iter(make_training_loader(task, splits.train, settings)))
        wiring = check_keys(module, task.PREDICTION_KEYS, first_batch)  # stops here if a key is misspelled
        if not options.resume:
            start_run_folder(run_dir, options.overwrite)
            write_config(run_dir, settings)
        write_wiring(wiring, run_dir)
        start = time.perf_counter()
        # Block 6. It writes the weights to the run folder, where the next stages find them.
        try:
            train(task, module, splits, settings, run_dir)
        except KeyboardInterrupt:
            to_continue = f"{command} --resume --run-dir {shlex.quote(str(run_dir))}"
            raise KeyboardInterrupt(f"interrupted. To continue: {to_continue}") from None
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
    """The settings and the folder of a new run, or of an existing one. Writes nothing.

    Raises:
        BadInputError: the request cannot be fulfilled; says how to change it.
    """
    stages, run_dir = options.stages, options.run_dir
    if "train" in stages and not options.resume:
        settings = make_settings(given, style)
        run_dir = run_dir or RUNS_DIR / f"{settings.task}-{datetime.now():%Y%m%d-%H%M%S}"
    else:
        if run_dir is None:
            newest = newest_run(RUNS_DIR)
            hint = f"The newest is {newest}." if newest else f"There is none in {RUNS_DIR}: train first."
            raise BadInputError(f"to continue a run, or to infer or evaluate alone, give its --run-dir. {hint}")
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
    epochs.to_csv(run_dir / "learning_curves.csv")
    draw_learning_curves(epochs, task, run_dir / "learning_curves.png")
    numbers = {"score_name": evaluation.score_name, "score": evaluation.score, **evaluation.numbers}
    (run_dir / "evaluation.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    write_page(run_dir, settings, evaluation.pictures)
    return evaluation


if __name__ == "__main__":
    main()
