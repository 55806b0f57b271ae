"""Uses the installed package from outside of the repository: `python -I smoke.py`."""

import sys
import time

import torch

start = time.perf_counter()
import fuse_losses  # noqa: E402

seconds = time.perf_counter() - start
# The target is 0.05 s on an idle machine.
assert seconds < 0.5, f"import fuse_losses took {seconds:.2f} s on top of torch"

imported = {name.partition(".")[0] for name in sys.modules} & {"monai", "sklearn", "lightning", "pytorch_lightning"}
assert not imported, f"import fuse_losses imports {imported}"

logits = torch.randn(2, 3, 8, 8, requires_grad=True)
batch = {"model.logits": logits, "data.seg": torch.randint(3, (2, 8, 8))}
loss = fuse_losses.LossWarmUp(
    loss=fuse_losses.LossDice(pred="model.logits", target="data.seg", weight=0.5), nof_iterations=1
)
loss(batch).backward()
assert (logits.grad == 0).all()
loss(batch).backward()
assert (logits.grad != 0).any()
