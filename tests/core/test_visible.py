"""Texts of files and names on terminals and in charts."""

from __future__ import annotations

import json

import pytest

from secateur.core.tables import Column, Table
from secateur.core.visible import all_visible, visible

UNFIT_SIGNS = ["\x00", "\x07", "\x1b", "\r", "\x7f", "\x9b", "\u202e", "\u2028", "\ud800", "\uffff"]


@pytest.mark.parametrize("sign", UNFIT_SIGNS)
def test_unfit_characters_become_their_escapes(sign: str) -> None:
    assert visible(f"a{sign}b") == f"a\\u{ord(sign):04x}b"
    assert json.loads(f'"{visible(sign)}"') == sign
    assert all_visible({sign: [sign, 1, None]}) == {visible(sign): [visible(sign), 1, None]}


@pytest.mark.parametrize("text", ["plain", "né–×→κ²", "two\nlines\tand a tab", "😀"])
def test_other_texts_stay(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_tables_show_no_control_characters(form: str) -> None:
    table = Table([Column("run", "R\x1b[1m")], [{"run": "d\x1b[2Jense"}])
    assert "\x1b" not in getattr(table, form)()
    assert "\x1b" not in str(table.html("caption"))
