"""Hypothesis runs few examples by default, and many with FUSE_DEEP_TESTS=1 in the environment."""

import os

from hypothesis import settings

settings.register_profile("light", max_examples=100, stateful_step_count=80, deadline=None)
settings.register_profile("deep", max_examples=500, stateful_step_count=200, deadline=None)
settings.load_profile("deep" if os.environ.get("FUSE_DEEP_TESTS") == "1" else "light")
