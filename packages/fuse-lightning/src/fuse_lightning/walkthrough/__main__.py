"""The walkthrough's command line: `python -m fuse_lightning.walkthrough --help`."""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from .data import digits_splits, mnist_splits
from .evaluation import draw_learning_curves, evaluate, predict
from .training import Settings, train

RUN_FILES = (
    "best_epoch.ckpt",
    "last.ckpt",
    "metrics.csv",
    "hparams.yaml",
    "predictions.csv",
    "epoch_summary_*.txt",
    "learning_curves.png",
    "confusion_matrix.png",
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m fuse_lightning.walkthrough",
        description="Train a small network on handwritten digits, then predict and evaluate its test set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--run-dir", type=Path, help="where results are written; by default runs/digits-<date>-<time>")
    parser.add_argument(
        "--data-dir", type=Path, help="a folder with the four MNIST IDX files, to train on those instead"
    )
    parser.add_argument("--epochs", type=positive(int), default=Settings.epochs)
    parser.add_argument("--batch-size", type=positive(int), default=Settings.batch_size)
    parser.add_argument("--learning-rate", type=positive(float), default=Settings.learning_rate)
    parser.add_argument("--optimizer", choices=("adam", "sam"), default=Settings.optimizer)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote to the run folder")
    parser.add_argument("--min-accuracy", type=float, default=0.0, help="fail where the test accuracy is lower")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, predict, evaluate."""
    options = parse_arguments(arguments)
    dataset = "digits" if options.data_dir is None else "mnist"
    run_dir: Path = options.run_dir or Path("runs") / f"{dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        splits = (
            digits_splits(options.seed) if options.data_dir is None else mnist_splits(options.data_dir, options.seed)
        )
        prepare_run_dir(run_dir, options.overwrite)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")

    settings = Settings(
        run_dir=run_dir,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        optimizer=options.optimizer,
        seed=options.seed,
    )
    start = time.perf_counter()
    trainer, module = train(settings, splits)
    seconds = time.perf_counter() - start
    predictions = predict(trainer, module, settings, splits)
    accuracy = evaluate(predictions, run_dir)
    draw_learning_curves(run_dir / "metrics.csv", run_dir / "learning_curves.png")
    print(f"training time: {seconds:.1f} s")  # noqa: T201
    print(f"test accuracy: {accuracy:.4f}")  # noqa: T201
    print(f"run folder: {run_dir.resolve()}")  # noqa: T201
    if accuracy < options.min_accuracy:
        sys.exit(f"error: the test accuracy {accuracy:.4f} is below --min-accuracy {options.min_accuracy}")


def prepare_run_dir(run_dir: Path, overwrite: bool) -> None:
    """Make the run folder; to overwrite is to delete the files that an earlier run wrote, and nothing else.

    Raises:
        FileExistsError: it is a file, or it is not empty and may not be overwritten.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file. Choose another --run-dir.")
    if run_dir.exists() and any(run_dir.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{run_dir} exists and is not empty. Choose another --run-dir, or add --overwrite.")
        for pattern in RUN_FILES:
            for path in run_dir.glob(pattern):
                path.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)


def positive(kind: type) -> Callable[[str], Any]:
    """A type of command line arguments: a number above zero."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not number > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return number

    return parse


if __name__ == "__main__":
    main()
