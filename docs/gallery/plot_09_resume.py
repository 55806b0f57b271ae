"""
Resume a training after a kill
==============================

``SIGKILL`` kills a training in the middle of an epoch. A second process resumes from ``last.ckpt``. At the end, its
weights equal those of an uninterrupted training bit by bit.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

# %%
# The training
# ------------
# The training is a program of its own. ``DataModuleDefault`` draws the order of the samples from the seed and the
# epoch, so a resumed run knows the next batch. ``save_every_n_steps`` writes ``last.ckpt`` inside epochs. The callback
# ``Log`` writes a line for each step.

PROGRAM = """
import logging, os, signal, sys, warnings
import pytorch_lightning as pl, torch, torch.nn.functional as F
from fuse_core import DatasetWrapSeqToDict
from fuse_lightning import DataModuleDefault, LightningModuleDefault
from fuse_losses import LossDefault
from fuse_models import ModelWrapSeqToDict

run_dir, kill_at = sys.argv[1], int(sys.argv[2])
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
pl.seed_everything(0)
x = torch.randn(256, 8)
samples = list(zip(x, (x.sum(1) > 0).long()))
data = DataModuleDefault(train=DatasetWrapSeqToDict(samples, ["data.x", "data.label"]), batch_size=16)
network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 2))

class Log(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        with open(f"{run_dir}/steps.txt", "a") as file:
            file.write(f"{trainer.global_step} {outputs['loss'].item()}\\\\n")
        if trainer.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

module = LightningModuleDefault(
    model_dir=run_dir,
    model=ModelWrapSeqToDict(model=network, model_inputs=["data.x"], model_outputs=["model.logits.cls"]),
    losses={"cls": LossDefault(pred="model.logits.cls", target="data.label", callable=F.cross_entropy)},
    optimizers_and_lr_schs=lambda module: torch.optim.Adam(module.parameters(), lr=3e-3),
    save_every_n_steps=5,
)
last = f"{run_dir}/last.ckpt"
trainer = pl.Trainer(max_epochs=4, default_root_dir=run_dir, logger=False, callbacks=[Log()], accelerator="cpu",
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(module, data, ckpt_path=last if os.path.exists(last) else None, weights_only=True)
torch.save(network.state_dict(), f"{run_dir}/weights.pt")
""".replace("\\\\n", "\\n")


def run(run_dir, kill_at=0):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(run_dir), str(kill_at)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


# %%
# One training runs without an interruption. The other is killed at step 27, in the middle of the second epoch:

whole, killed = (Path(tempfile.mkdtemp()) for _ in range(2))
finished = run(whole)
assert finished.returncode == 0, finished.stderr
print("killed: exit code", run(killed, kill_at=27).returncode)
print("left behind:", sorted(path.name for path in killed.iterdir() if path.suffix == ".ckpt"))

# %%
# The same command again resumes:

resumed = run(killed)
assert resumed.returncode == 0, resumed.stderr
weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed)]
equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
print("all weights equal, bit by bit:", equal)
assert equal

figure, axis = plt.subplots(figsize=(7, 3.4))
for folder, name, style, color in (
    (whole, "uninterrupted", "-", "#0072b2"),
    (killed, "killed at 27, resumed", "o", "#d55e00"),
):
    steps = [line.split() for line in (folder / "steps.txt").read_text().splitlines()]
    axis.plot(
        [int(step) for step, _ in steps], [float(loss) for _, loss in steps], style, ms=3, color=color, label=name
    )
axis.axvline(27, color="gray", linestyle=":")
axis.set_xlabel("step")
axis.set_ylabel("loss of the batch")
axis.legend()
plt.show()
