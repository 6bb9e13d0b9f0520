"""Table of all results of compare-fusion in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from secateur.core.errors import InputError, StoreError
from secateur.core.files import read_json
from secateur.steps.base import ARGUMENT, Context, Outcome, Step, step
from secateur.steps.choices import OutputFormat
from secateur.steps.fusion_records import Charts, FusionRecord, draw, is_record, published, table
from secateur.steps.result_file import are


@step("fusion-results")
class FusionResults(Step):
    """Show all that compare-fusion found in a folder as one table.

    Reads every JSON file of results in the folder and its subfolders.
    """

    folder: Annotated[str, Field(min_length=1, description="folder of results", json_schema_extra=ARGUMENT)]
    charts: Charts = None
    format: OutputFormat = "text"

    def perform(self, context: Context) -> Outcome:
        """Read the files and return the table."""
        folder = context.at(self.folder)
        if not folder.exists():
            raise StoreError(f"There is no folder {folder}: make results with secateur compare-fusion.")
        paths = sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]
        found, broken = dict[Path, list[FusionRecord]](), list[str]()
        for path in paths:
            try:
                content = read_json(path)
            except StoreError as error:
                broken.append(f"Left aside: {error}")
                continue
            if are(content, is_record):
                found[path] = content
        records = [published(record) for content in found.values() for record in content]
        if not records:
            why = f" ({broken[0]})" if broken else ""
            raise InputError(f"{folder} holds no results{why}: make some with secateur compare-fusion.")
        if self.charts is not None:
            draw(records, context.at(self.charts))
        told = f"{len(records)} cells of {len(found)} file{'s' if len(found) > 1 else ''} in {folder}."
        return Outcome((told, *broken), table(records), records)
