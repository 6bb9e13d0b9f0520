"""Tables as data sets: parquet files, delimited text, and the Hugging Face hub.

All three become a pair of Arrow tables, from which `columns` builds the data set. No code that comes with the data
is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import DataError
from secateur.core.extras import need
from secateur.data.dataset import Dataset
from secateur.data.registry import Request, source

if TYPE_CHECKING:
    import pyarrow as pa

HELD_OUT = ("test", "dev", "validation", "valid", "val")


@source(
    "parquet",
    argument="PATH",
    summary="parquet files of images or texts: a folder with train* and test*, or two files",
)
def parquet(request: Request) -> Dataset:
    """Read PATH/train*.parquet and PATH/test*.parquet (dev*, validation*), or TRAIN_FILE,TEST_FILE."""
    need("pyarrow", for_="Reading parquet files")
    from pyarrow import parquet

    return _read(request, (".parquet",), lambda path: parquet.read_table(path, partitioning=None))


@source(
    "table",
    argument="PATH",
    summary="texts with labels in .tsv or .csv files: a folder with train and test, or two",
)
def table(request: Request) -> Dataset:
    """Read PATH/train.tsv and PATH/test.tsv (dev, validation; or .csv), or TRAIN_FILE,TEST_FILE.

    Tab-separated files know no quoting, comma-separated ones quote with ".
    """
    need("pyarrow", for_="Reading tables")
    from pyarrow import csv

    def read(path: Path) -> pa.Table:
        tabs = path.suffix == ".tsv"
        style = csv.ParseOptions(delimiter="\t" if tabs else ",", quote_char=False if tabs else '"')
        return csv.read_csv(path, parse_options=style)

    return _read(request, (".tsv", ".csv"), read)


@source(
    "hf",
    argument="NAME",
    summary="a data set of the Hugging Face hub, NAME or NAME:CONFIG, or a local folder",
)
def hub(request: Request) -> Dataset:
    """Load NAME or NAME:CONFIG with the `datasets` library; splits with hidden labels are skipped."""
    datasets = need("datasets", extra="datasets", for_="Reading the Hugging Face hub")
    name, _, config = request.argument.partition(":")
    try:
        loaded: Any = datasets.load_dataset(
            name,
            config or None,
            download_config=datasets.DownloadConfig(local_files_only=not request.download),
        )
    except Exception as error:  # the hub, the network and every file format have exceptions of their own
        reason = " ".join(str(error).split())
        tried = "" if request.download else " without downloading"
        raise DataError(
            f"Cannot load {name} with the datasets library{tried} ({reason}): check the name."
        ) from error
    splits = {key: half.with_format("arrow") for key, half in loaded.items()}
    if "train" not in splits:
        raise DataError(
            f"{request.name} has the splits {', '.join(splits)}, but no train: choose another data set."
        )
    return _assembled(request, splits["train"][:], (splits[key][:] for key in HELD_OUT if key in splits))


def _read(request: Request, suffixes: tuple[str, ...], read: Callable[[Path], pa.Table]) -> Dataset:
    """Read the files that `request` names with `read` and build the data set."""
    import pyarrow as pa

    def joined(files: list[Path]) -> pa.Table:
        try:
            return pa.concat_tables([read(path) for path in files])
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"Cannot read {', '.join(map(str, files))} ({reason}): replace the file."
            ) from error

    train, candidates = _files(request.argument, suffixes)
    return _assembled(request, joined(train), map(joined, candidates))


def _assembled(request: Request, train: pa.Table, candidates: Iterable[pa.Table]) -> Dataset:
    """Build the data set with the first of the test `candidates` that has labels."""
    from secateur.data.columns import assemble, labelled

    test = next(filter(labelled, candidates), None)
    if test is None:
        raise DataError(f"{request.name} has no labelled split to test on: add one ({', '.join(HELD_OUT)}).")
    return assemble(request, train, test)


def _files(argument: str, suffixes: tuple[str, ...]) -> tuple[list[Path], Iterator[list[Path]]]:
    """Return the training files and, in order of preference, the lists of files to test on."""
    if "," in argument:
        train, test = (Path(part.strip()).expanduser() for part in argument.split(",", 1))
        for path in (train, test):
            if not path.is_file():
                raise DataError(f"Cannot read {path}: there is no such file; write TRAIN_FILE,TEST_FILE.")
        return [train], iter([[test]])
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder: name one with train and test files, or TRAIN_FILE,TEST_FILE."
        )

    def matching(prefix: str) -> list[Path]:
        found = (sorted(folder.glob(f"{prefix}*{suffix}")) for suffix in suffixes)
        return next(filter(None, found), [])

    train_files, candidates = matching("train"), [files for files in map(matching, HELD_OUT) if files]
    if not train_files or not candidates:
        wanted = " or ".join(suffixes)
        raise DataError(
            f"{folder} needs files train*{wanted} and test* (or dev*, validation*) beside them: add them."
        )
    return train_files, iter(candidates)
