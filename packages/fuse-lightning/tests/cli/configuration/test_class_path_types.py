"""A class path that is not of its place's type is refused before it is called."""

import re
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

FUNCTIONS = """
def unannotated(count=8):
    Path("called").touch()
    return Points(count)

def annotated(count: int = 8) -> Points:
    return Points(count)

from pathlib import Path
"""

OPTIMIZERS = "model.init_args.optimizers_and_lr_schs"
SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch called"}}
NO_CLASS = r"it is no such class, and no function whose return type is annotated as one"


@pytest.mark.parametrize("command", ["fit", "wiring", "test"])
@pytest.mark.parametrize(
    ("place", "takes"),
    [
        (f"{OPTIMIZERS}.init_args.optimizer", "Optimizer"),
        (f"{OPTIMIZERS}.init_args.optimizer.init_args.base_optimizer", "Optimizer"),
        (f"{OPTIMIZERS}.init_args.lr_scheduler", "LRScheduler"),
        (OPTIMIZERS, ""),
        ("model.init_args.model", "Module"),
        ("model.init_args.losses.side", "Module"),
        ("model.init_args.losses.side.init_args.callable", ""),
        ("model.init_args.validation_metrics.accuracy", "Metric"),
        ("data.init_args.train", "Dataset"),
        ("data", "LightningDataModule"),
        ("model", "LightningModule"),
    ],
)
def test_a_function_is_refused_before_it_is_called(edited, run_command, capsys, command, place, takes):
    edited(place, SYSTEM)
    assert run_command(command) == 2
    printed = capsys.readouterr().err
    assert re.search(
        rf"run.yaml:\d+: {re.escape(place)}: it takes .*{takes}.*, got 'os\.system': {NO_CLASS}", printed
    ), printed
    assert not Path("called").exists()


def test_a_callback_of_another_type_is_refused(edited, run_command, capsys):
    edited("trainer.callbacks", [{"class_path": "subprocess.Popen", "init_args": {"args": "touch called"}}])
    assert run_command("fit") == 2
    assert (
        "trainer.callbacks[0]: it takes Callback, got 'subprocess.Popen': it is no such class"
        in capsys.readouterr().err
    )
    assert not Path("called").exists()


@pytest.mark.parametrize(
    ("argument", "takes"),
    [
        ("train_metrics", "CollectingMetric or Metric"),
        ("test_metrics", "CollectingMetric or Metric"),
        ("validation_losses", "Module"),
    ],
)
def test_a_class_that_is_no_metric_or_loss_is_refused(edited, run_command, capsys, argument, takes):
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "called"]}}
    edited(f"model.init_args.{argument}", {"near": popen})
    assert run_command("fit") == 2
    message = f"model.init_args.{argument}.near: it takes {takes}, got 'subprocess.Popen': it is no such class"
    assert message in capsys.readouterr().err
    assert not Path("called").exists()


@pytest.mark.parametrize("function", ["unannotated", "annotated"])
def test_a_function_of_the_users_own_needs_a_return_type(edited, project, run_command, capsys, function):
    Path("points.py").write_text(Path("points.py").read_text() + FUNCTIONS)
    edited("data.init_args.train", {"class_path": f"points.{function}"})
    if function == "annotated":
        assert run_command("fit") == 0
    else:
        assert run_command("fit") == 2
        assert (
            "got 'points.unannotated': it is no such class, and no function whose return type"
            in capsys.readouterr().err
        )
        assert not Path("called").exists()


def test_a_loss_of_tensors_suggests_the_wrapper(edited, run_command, capsys):
    edited("model.init_args.losses.side", {"class_path": "torch.nn.CrossEntropyLoss"})
    assert run_command("fit") == 2
    printed = capsys.readouterr().err
    assert "model.init_args.losses: 'side', a CrossEntropyLoss, takes other arguments than the batch_dict." in printed
    assert "Wrap it: LossDefault(pred=key, target=key, callable=CrossEntropyLoss())" in printed


def test_the_wiring_makes_no_callbacks_and_loggers(edited, project, run_command):
    Path("points.py").write_text(
        Path("points.py").read_text()
        + """
class Noisy(pl.Callback):
    def __init__(self):
        open("called", "w").close()
"""
    )
    edited("trainer.callbacks", [{"class_path": "points.Noisy"}])
    assert run_command("wiring") == 0
    assert not Path("called").exists()


def test_a_function_that_makes_the_schedule_is_given_by_its_path_alone(edited, project, run_command, capsys):
    schedule = """
def halved(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
"""
    (project / "points.py").write_text((project / "points.py").read_text() + schedule)
    place = f"{OPTIMIZERS}.init_args.lr_scheduler"
    edited(place, {"class_path": "points.halved"})
    assert run_command("fit") == 2
    assert re.search(
        rf"run.yaml:\d+: {place}: it takes LRScheduler, got 'points.halved': a function is given by its path alone, ",
        capsys.readouterr().err,
    )
    edited(place, "points.halved")
    assert run_command("fit", "--trainer.max_epochs", "1") == 0
