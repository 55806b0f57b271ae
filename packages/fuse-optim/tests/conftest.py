"""Profiles of hypothesis: few examples by default, many with FUSE_DEEP_TESTS=1."""

import os

from hypothesis import settings

settings.register_profile("light", max_examples=40, deadline=None)
settings.register_profile("deep", max_examples=1000, deadline=None)
settings.load_profile("deep" if os.environ.get("FUSE_DEEP_TESTS") == "1" else "light")
