"""What `--print_config` prints runs as it stands."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from fuse_lightning.cli.main import main

pytest.importorskip("jsonargparse")
pytest.importorskip("sklearn")

QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_the_printed_configuration_is_commented_and_runs_as_it_is(capsys):
    assert main(["fit", "--print_config"]) == 0
    text = capsys.readouterr().out
    assert text.count("#") > 20
    Path("run.yaml").write_text(text)
    assert main(["wiring", "--config", "run.yaml"]) == 0
    assert main(["fit", "--config", "run.yaml", *QUICK]) == 0
    assert Path("runs/digits/best_epoch.ckpt").is_file()
    assert main(["predict", "--config", "run.yaml"]) == 0
    assert len(Path("runs/digits/predictions.csv").read_text().splitlines()) == 361


def test_the_alternatives_in_its_comments_run_too(capsys):
    main(["fit", "--print_config"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("# optimizer:"))
    sam = [re.sub("# ?", "", line, count=1).partition("#")[0] for line in lines[start : start + 5]]
    focal = next(i for i, line in enumerate(lines) if line.strip() == "# focal:")
    lines[start : start + 5] = sam
    lines[start - 3 : start] = []  # the optimizer before
    lines[focal : focal + 3] = [line.replace("# ", "", 1) for line in lines[focal : focal + 3]]
    Path("run.yaml").write_text("\n".join(lines))
    optimizer = yaml.safe_load("\n".join(lines))["model"]["init_args"]["optimizers_and_lr_schs"]["init_args"][
        "optimizer"
    ]
    assert optimizer["class_path"] == "fuse_optim.SAM"
    assert main(["fit", "--config", "run.yaml", *QUICK]) == 0


def test_with_a_configuration_all_of_it_is_printed(capsys):
    main(["fit", "--print_config"])
    Path("run.yaml").write_text(capsys.readouterr().out)
    with pytest.raises(SystemExit) as exit_request:
        main(["fit", "--config", "run.yaml", "--print_config"])
    assert exit_request.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["gradient_clip_val"] is None
    assert printed["data"]["init_args"]["batch_size"] == 32
