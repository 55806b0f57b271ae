import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # so that the kernels run on the CPU; read when doctests first import Triton

settings.register_profile("light", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=300, deadline=None)
settings.load_profile("deep" if os.environ.get("FUSE_DEEP_TESTS") == "1" else "light")
