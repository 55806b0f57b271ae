"""The page of results, as a browser shows it."""

import base64
import io
import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.image import imread

from fuse_lightning.walkthrough.__main__ import main
from fuse_lightning.walkthrough.template import segmentation_data

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module", params=["classification", "segmentation"])
def run_dir(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "run <1> & more"  # a name that HTML must escape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation_data, "CANVASES", {"train": 32, "validation": 16, "test": 16})
        options = ["--epochs", "2", "--max-train-samples", "64", "--accelerator", "cpu", "--task", request.param]
        main(["--run-dir", str(folder), *options])
        (folder / "50% #1.txt").write_text("mine")  # a name that a link must quote
        main(["--run-dir", str(folder), "--stages", "eval"])
    return folder


@pytest.fixture
def browse(run_dir, tmp_path):
    """Opens the page in a headless browser; what the browser prints comes back."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        message = f"no browser on PATH: none of {', '.join(BROWSERS)}"
        if os.environ.get("FUSE_REQUIRE_BROWSER"):
            pytest.fail(f"{message}, and FUSE_REQUIRE_BROWSER asks for one")
        pytest.skip(message)

    def open_page(*options):
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        page = (run_dir / "index.html").as_uri()
        return subprocess.run(
            [*command, *options, page], capture_output=True, text=True, check=True, timeout=120
        ).stdout

    return open_page


class Elements(HTMLParser):
    """The attributes of all elements, by tag, and the text of the table cells."""

    def __init__(self, text):
        super().__init__()
        self.attributes = {}
        self.cells = []
        self.feed(text.replace("<wbr>", ""))  # where a long name may be broken

    def handle_starttag(self, tag, attributes):
        self.attributes.setdefault(tag, []).append(dict(attributes))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def test_a_browser_shows_the_score_and_every_picture(run_dir, browse):
    shown = browse("--dump-dom")
    pictures = [image["alt"].partition(" of ")[0] for image in Elements(shown).attributes["img"]]
    worst = {"Image": 12, "Target": 12, "Prediction": 12, "Overlays": 1}
    assert Counter(pictures) == (worst if (run_dir / "overlays.png").exists() else {"Image": 24})
    assert len(Elements(shown).attributes["polyline"]) >= 4  # training and validation of loss and metric
    score = re.search(r'"score": ([\d.]+)', (run_dir / "evaluation.json").read_text())[1]
    assert f"<b>{float(score):.4f}</b>" in shown
    assert "<code>run &lt;1&gt; &amp; more</code>" in shown


def test_a_screenshot_shows_more_than_an_empty_page(browse, tmp_path):
    browse(f"--screenshot={tmp_path}/page.png", "--window-size=1280,2400")
    picture = imread(tmp_path / "page.png")[..., :3]
    assert picture.shape[:2] == (2400, 1280)
    colors = (picture * 255).astype(np.uint8) @ np.array([1, 256, 65536])
    assert len(np.unique(colors)) > 100
    blue = np.array([0x1F, 0x5F, 0xA8]) / 255  # of the score's tile
    assert (abs(picture - blue).max(axis=-1) < 0.02).sum() > 2000


def test_the_page_needs_nothing_from_outside_its_folder(run_dir):
    text = (run_dir / "index.html").read_text()
    elements = Elements(text)
    assert all(image["src"].startswith("data:image/png;base64,") for image in elements.attributes["img"])
    assert all(image["alt"] for image in elements.attributes["img"])
    assert "link" not in elements.attributes
    assert "script" not in elements.attributes
    for image in elements.attributes["img"]:
        assert imread(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size >= 64
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    links = [anchor["href"] for anchor in elements.attributes["a"]]
    assert {"config.yaml", "predictions.csv", "wiring.md", "model/best_epoch.ckpt"} <= set(links)
    assert all((run_dir / unquote(link)).is_file() for link in links)
    assert "50%25%20%231.txt" in links


def test_the_wiring_is_a_table_of_the_page(run_dir):
    cells = Elements((run_dir / "index.html").read_text()).cells
    row = cells.index("data.image")
    assert cells[row + 1] == "the batch"
    assert cells[row + 2].startswith("Model")
