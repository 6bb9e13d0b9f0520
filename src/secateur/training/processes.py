"""Training in several processes on one machine.

Tensors are passed to the processes, and the result or the error back, as safetensors and JSON files in a temporary
folder of mode 0700: so neither the size of the shared memory nor the number of open files limits a model. The
processes fetch the model without its tensors, which may be large as well, through a socket in that folder. A process
that runs the caller's script again, for lack of a main guard, reports the error in the folder and ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Listener
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from secateur.core import errors
from secateur.core.copying import duplicate
from secateur.core.errors import InputError, MissingExtraError, ModelError, SecateurError
from secateur.core.extras import need
from secateur.core.files import read_json, write_json
from secateur.core.modules import buffers_of, parameters_of
from secateur.data import Dataset, Split
from secateur.sparsity.masks import Masks
from secateur.storage.model_files import read_tree, write_tree
from secateur.training.config import TrainConfig
from secateur.training.loop import Fit, fit, make_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EXCHANGE = "SECATEUR_EXCHANGE"
SOCKET, TENSORS, RESULT_FILE, ERROR = "socket", "tensors.safetensors", "result.safetensors", "error.json"
GUARD = (
    "Several devices mean several processes, which import the script that starts them: "
    "put its code in a file below if __name__ == '__main__':, or train with devices=1."
)


def spread(model: nn.Module, data: Dataset, config: TrainConfig, arguments: Mapping[str, Any]) -> Fit:
    """Run `fit` in `config.devices` processes and load the trained weights of the first one into `model`.

    Raises the errors of `fit`, `InputError` if the calling script lacks a main guard, `ModelError` for a model
    whose class other processes can't import.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        _report(InputError(GUARD))
        sys.exit(1)
    if hasattr(sys, "ps1") or not os.path.exists(
        getattr(sys.modules["__main__"], "__file__", None) or sys.executable
    ):
        raise InputError(GUARD)
    need("lightning_fabric", for_="Training")
    from secateur.training.strategy import SpawnStrategy

    fabric = make_fabric(config, SpawnStrategy())
    with tempfile.TemporaryDirectory(prefix="secateur-") as name, _surroundings(name):
        folder = Path(name)
        parcel = _pack(folder / TENSORS, model, data, {**arguments, "config": config})
        with Listener(str(folder / SOCKET), backlog=config.devices) as listener:
            Thread(target=_serve, args=(listener, parcel, config.devices), daemon=True).start()
            try:
                fabric.launch(_work)
            except ProcessException as error:
                if not (folder / RESULT_FILE).exists():
                    raise _reason(folder, error) from None
        result = read_tree(folder / RESULT_FILE)
    model.load_state_dict(result["model"])
    return Fit(**{**result["fit"], "masks": Masks(result["fit"]["masks"])})


def _serve(listener: Listener, parcel: Parcel, times: int) -> None:
    """Send the parcel to the first `times` processes that connect."""
    with suppress(OSError):  # closed because the training failed
        for _ in range(times):
            with listener.accept() as connection:
                connection.send(parcel)


def _work(fabric: Fabric) -> None:
    """Train in one of the processes."""
    folder = Path(os.environ[EXCHANGE])
    try:
        parcel = _fetch(folder / SOCKET)
        model, data = _unpack(folder / TENSORS, parcel)
        fitted = fit(model, data, fabric=fabric, **parcel.arguments)
        if fabric.is_global_zero:
            write_tree(folder / RESULT_FILE, {"model": model.state_dict(), "fit": vars(fitted)})
    except SecateurError as error:
        _report(error)
        raise
    fabric.barrier()
    torch.distributed.destroy_process_group()  # left to the end of the process, its threads may abort it


def _fetch(socket: Path) -> Parcel:
    try:
        with Client(str(socket)) as connection:
            parcel: Parcel = connection.recv()
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"A training process can't import the model's class ({error}): put it in a module."
        ) from None
    return parcel


@dataclass(frozen=True)
class Parcel:
    """Input of a process: the model with empty tensors, the facts of the data set, `fit`'s other arguments."""

    model: nn.Module
    facts: dict[str, Any]
    arguments: dict[str, Any]


def _pack(path: Path, model: nn.Module, data: Dataset, arguments: Mapping[str, Any]) -> Parcel:
    """Write all tensors to `path` and return the rest. Raises `ModelError` for a class that can't be pickled."""
    masks = dict(arguments["masks"] or {})
    tensors = {"model": [tensor.data for tensor in _tensors(model)], "masks": masks}
    write_tree(path, {**tensors, "train": vars(data.train), "test": vars(data.test)})
    skeleton = duplicate(model)
    for tensor in _tensors(skeleton):
        tensor.data = tensor.data.new_empty(0)
    facts = {name: getattr(data, name) for name in ("name", "classes", "mean", "std", "augmentation")}
    parcel = Parcel(skeleton, facts, {**arguments, "masks": None})
    try:
        ForkingPickler.dumps(parcel)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{type(model).__name__} can't be sent to other processes ({error}): define its class and functions at "
            "the top level of a module, or train with devices=1."
        ) from None
    return parcel


def _unpack(path: Path, parcel: Parcel) -> tuple[nn.Module, Dataset]:
    """Return the model and the data set of a parcel and its tensors."""
    tree = read_tree(path)
    for tensor, values in zip(_tensors(parcel.model), tree["model"], strict=True):
        tensor.data = values
    parcel.arguments["masks"] = tree["masks"]
    return parcel.model, Dataset(train=Split(**tree["train"]), test=Split(**tree["test"]), **parcel.facts)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Return the model's parameters and buffers, tied ones once."""
    return [*parameters_of(model), *buffers_of(model)]


def _report(error: SecateurError) -> None:
    """Write the first error for the parent; later ones follow from it."""
    path = Path(os.environ[EXCHANGE]) / ERROR
    if not path.exists():
        write_json(path, [type(error).__name__, str(error)])


def _reason(folder: Path, error: ProcessException) -> Exception:
    """Return the error reported by a process; without one, an error for a killed process, else `error` itself."""
    if (folder / ERROR).exists():
        name, message = read_json(folder / ERROR)
        kind: type[SecateurError] = getattr(errors, name)
        return SecateurError(message) if issubclass(kind, MissingExtraError) else kind(message)
    if isinstance(error, ProcessExitedException):
        return SecateurError(
            f"A training process ended ({error}): try a smaller batch_size or fewer devices."
        )
    return error


@contextmanager
def _surroundings(folder: str) -> Iterator[None]:
    """Name `folder` in the environment and silence libraries; at the end, stop the processes and undo both."""
    variables, mine = dict(os.environ), set(multiprocessing.active_children())
    os.environ.update({EXCHANGE: folder, "TORCH_CPP_LOG_LEVEL": "ERROR"})
    spawning = logging.getLogger("torch.multiprocessing.spawn")
    spawning.disabled = True
    try:
        yield
    finally:
        spawning.disabled = False
        for process in set(multiprocessing.active_children()) - mine:
            _end(process)
        os.environ.clear()
        os.environ.update(variables)


def _end(process: Any) -> None:
    """Wait a second for a process, then interrupt it, then kill it, waiting five seconds after each."""
    process.join(1)
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.is_alive():
            os.kill(process.pid, number)
            process.join(5)
