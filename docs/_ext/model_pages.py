"""A page for each model: a small one, its parts with keys and shapes as the contract finds them, its size, its weights."""

import copy
import re
from pathlib import Path
from typing import Any

from docstrings import public_names
from files import write_if_changed
from model_table import MODELS, NAMES, ModelPage

from fuse_core import Contract, check_contract


def write_model_pages(docs: Path) -> None:
    """Write them, and the table of all."""
    rows = [f"| [`{one.name}`]({one.name}.md) | {one.title} | {one.use} |" for one in MODELS]
    names = "\n".join(one.name for one in MODELS)
    text = (
        "# Models\n\nEach page builds a small model, and shows its parts with the keys and shapes that `check_contract` finds. "
        "[A how-to](../how-to/heads.md) shows the heads. Every argument is in the "
        "{doc}`API reference </api/fuse_models>`.\n\n| class | what it is | when to use it |\n|---|---|---|\n"
    )
    write_if_changed(
        docs / "models" / "index.md", f"{text}{chr(10).join(rows)}\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )
    for one in MODELS:
        write_if_changed(docs / "models" / f"{one.name}.md", model_page(one))


def model_page(page: ModelPage) -> str:
    """One page. Its code is run."""
    names = dict(NAMES)
    exec(page.code, names)  # the page's own example
    model: Any = names["model"]
    spec: Any = names["spec"]
    components = parts(model)
    written = [key for one in components.values() for key in one.writes]
    contract = check_contract(components, spec, prediction_keys=written, frozen=list(components))  # no loss here
    part = eval(page.parts or "model", names)
    millions = sum(one.numel() for one in part.parameters()) / 1e6
    shown = names_of(page.code)
    imports = "\n".join(f"from {module} import {', '.join(found)}" for module, found in sorted(shown.items()) if found)
    return f"""# {page.title}

{{py:obj}}`~{public_names()[page.name]}`

{page.use}

```python
{imports}

{page.code}```

This {"backbone" if page.parts else "model"} has {millions:.2f} million parameters.

## Parts, keys and shapes

B is the batch size.

```{{mermaid}}
{drawing(contract)}
```

{key_table(contract)}

## Weights that load

{page.weights}

## Arguments

```{{eval-rst}}
.. autoclass:: {public_names()[page.name]}
   :no-index:
   :no-members:
```
"""


def drawing(contract: Contract) -> str:
    """The contract from top to bottom, with the shape of a key where it is written only."""
    text = contract.to_mermaid().replace("flowchart LR", "flowchart TD").replace(" float32", "")
    return re.sub(r'(k\d+) -- ".+" --> ', r"\1 --> ", text)


def parts(model: Any) -> dict[str, Any]:
    """A model of several parts as its trunk and its heads; any other model as it is."""
    heads = list(getattr(model, "heads", []))
    if not heads:
        return {"model": model}
    trunk = copy.copy(model)
    trunk._modules = {**model._modules, "heads": type(model.heads)([], type(model).__name__)}
    return {"trunk": trunk, **{f"head {head.head_name}": head for head in heads}}


def key_table(contract: Contract) -> str:
    """The keys as a Markdown table."""
    rows = [
        f"| `{name}` | `{str(key).replace(' float32', '')}` | {key.writer} | {', '.join(key.readers) or 'you'} |"
        for name, key in contract.keys.items()
    ]
    rows = [re.sub(r"\w+ '(.+?)'", r"\1", row) for row in rows]  # names without classes, which the drawing shows
    return "| key | shape | written by | read by |\n|---|---|---|---|\n" + "\n".join(rows)


def names_of(code: str) -> dict[str, list[str]]:
    """The names that the code imports, by module."""
    found: dict[str, list[str]] = {"fuse_core": [], "fuse_models": [], "torch": []}
    for name in sorted(NAMES):
        if f"{name}(" in code or f"{name}." in code:
            module = "fuse_core" if name == "TensorSpec" else "torch" if name in ("nn", "torch") else "fuse_models"
            found[module].append(name)
    return found
