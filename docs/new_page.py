"""Start the page of a new criterion, compensation or method, and enter it in the index.

What is in capitals in the page is to be written; the headings are those that every page of its kind has.
"""

from __future__ import annotations

import re
from pathlib import Path

from secateur.core.errors import InputError

PAGE = """# {title}

The {kind} `{name}` SAYS WHAT IT DOES IN ONE SENTENCE.

FORMULA, with every symbol explained.

**Paper.** AUTHORS YEAR, *TITLE*, equation NUMBER.

```python
{call}
```

## When to use it

WHERE IT IS THE BETTER CHOICE, AND AGAINST WHAT.

When not: WHERE IT FAILS, AND WHY.
"""
CALLS = {
    "criterion": 'result = secateur.prune(model, amount=0.5, criterion="{name}")',
    "compensation": (
        'result = secateur.prune(model, x, granularity="channel", amount=0.5, data=batches, compensation="{name}")'
    ),
    "method": 'pruning = secateur.methods.start("{name}", model, optimizer, steps=1000, amount=0.9)',
}
"""Kind → how such a thing is called, on its page."""
FOLDERS = {"criterion": "criteria", "compensation": "compensation", "method": "methods"}
"""Kind → the package whose modules register such things."""


def new_page(docs: Path, kind: str, name: str) -> list[str]:
    """Write `docs`/methods/NAME.md and its entry in `docs`/README.md; return what is to be done next.

    Raises `InputError` for a name that can't be a word of the command line, or has a page already.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise InputError(f"'{name}' is no name of a {kind}: take small letters, digits and underscores.")
    page, index = docs / "methods" / f"{name}.md", docs / "README.md"
    if page.exists():
        raise InputError(f"There is a page {page.relative_to(docs.parent)} already: choose another name.")
    listed = entered(index.read_text(encoding="utf-8"), kind, name)
    title = name.replace("_", " ").capitalize()
    text = PAGE.format(kind=kind, name=name, title=title, call=CALLS[kind].format(name=name))
    page.write_text(text, encoding="utf-8")
    index.write_text(listed, encoding="utf-8")
    return [
        f"register it in src/secateur/{FOLDERS[kind]}/{name}.py (CONTRIBUTING.md, Adding a {kind})",
        f"write what is in capitals in {page.relative_to(docs.parent)}, and its options if it has any",
        "say in its row of docs/README.md what it is for",
        "python docs/generate.py, which brings the tables up to date",
        "./dev test tests/docs tests/criteria tests/compensation tests/methods",
    ]


def entered(index: str, kind: str, name: str) -> str:
    """Return the index with a row for the new page after the last one of its kind."""
    rows = [*re.finditer(rf"^\| \[.*\]\(methods/.*\) \| the {kind}s? `.*\n", index, re.MULTILINE)]
    title, end = name.replace("_", " ").capitalize(), rows[-1].end()
    return f"{index[:end]}| [{title}](methods/{name}.md) | the {kind} `{name}` |\n{index[end:]}"
