"""`index.html`: the run on one page, in one file that can be sent alone, made of fuse_lightning's parts."""

import dataclasses
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from fuse_lightning.report.charts import line_chart
from fuse_lightning.report.page import escape, note, picture, section, table, tiles, write_html
from fuse_lightning.report.wiring_drawing import wiring_drawing

from .settings import Settings
from .start_run import MODEL_DIR
from .task import Evaluation, Picture, Task
from .wiring_page import ABOUT, HEADER, read_wiring_rows

PAGE_FILE = "index.html"


def write_page(
    task: Task, run_dir: Path, settings: Settings, evaluation: Evaluation, epochs: pd.DataFrame, best_epoch: int
) -> Path:
    """Write `index.html` from the contents of the run folder: first the numbers, then what explains them."""
    first, *others = evaluation.pictures
    summary = f"style {settings.style} · {settings.optimizer} · {settings.epochs} epochs · seed {settings.seed}"
    numbers = {
        evaluation.score_name: f"{evaluation.score:.4f}",
        **evaluation.numbers,
        "best epoch, counted from 0": best_epoch,
    }
    wiring = read_wiring_rows(run_dir)
    writers = {key: writer for key, writer, _ in wiring if writer != "-"}
    readers = {key: reading.split(", ") for key, _, reading in wiring if reading != "-"}
    curves = [line_chart(title, points(epochs, name), best_epoch) for name, title in task.CURVES]
    body = [
        tiles(numbers.items()),
        section("Learning curves", f'<div class="charts">{"".join(curves)}</div>'),
        picture_section(run_dir, first),
        *(section(one.title, table(one.header, one.rows, one.title)) for one in evaluation.tables),
        *(picture_section(run_dir, one) for one in others),
        *(
            section("Best and last epoch", table(*read_summary(path), path.stem.removeprefix("epoch_summary_")))
            for path in sorted((run_dir / MODEL_DIR).glob("epoch_summary_*.txt"))
        ),
        section("Wiring", note(ABOUT), wiring_drawing(writers, readers), table(HEADER, wiring, "All keys", "texts")),
        section("Settings", table(("setting", "value"), settings_rows(settings), "The settings of the run", "texts")),
        section("Files", files_list(run_dir)),
    ]
    name = f"Run <code>{escape(run_dir.resolve().name)}</code> · {escape(summary)}"
    page = write_html(f"{settings.task.capitalize()} of digits", name, body)
    path = run_dir / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def points(epochs: pd.DataFrame, name: str) -> dict[str, list[tuple[float, float]]]:
    """The values of training and validation over the epochs."""
    values = {mode: epochs[f"{mode}.{name}"].dropna() for mode in ("train", "validation")}
    return {mode: list(zip(one.index.tolist(), one.tolist(), strict=True)) for mode, one in values.items()}


def picture_section(run_dir: Path, one: Picture) -> str:
    """A picture of the run folder, as a part of the page."""
    return section(one.title, picture((run_dir / one.file).read_bytes(), one.title, one.caption))


def read_summary(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the Markdown table of the best and the last epoch."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    header, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return ["value", *header[-2:]], rows


def settings_rows(settings: Settings) -> list[tuple[str, str]]:
    """The names and values of the settings."""
    values = dataclasses.asdict(settings).items()
    return [(name, "not set" if value is None else str(value)) for name, value in values]


def files_list(run_dir: Path) -> str:
    """Links to the other files of the run folder."""
    names = sorted(path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file())
    links = [f'<a href="{escape(quote(name))}">{escape(name)}</a>' for name in names if name != PAGE_FILE]
    return note("Files beside this page, in the run folder.") + "<br>\n".join(links)
