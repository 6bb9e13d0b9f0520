"""Training in several processes on one machine.

Everything goes to the processes, and the result or the error comes back, through files in a temporary folder that
only this user can open: so neither the size of the shared memory nor the number of open files limits a model.
A process that starts by running the caller's script again, for want of a main guard, says so there and ends.
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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from secateur import errors
from secateur.data import Dataset
from secateur.errors import InputError, ModelError, SecateurError
from secateur.files import read_json, write_json
from secateur.store import read_tree, write_tree
from secateur.training.config import TrainConfig
from secateur.training.loop import Fit, fit, make_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EXCHANGE = "SECATEUR_EXCHANGE"
PARCEL, RESULT, ERROR = "parcel.pt", "result.safetensors", "error.json"
GUARD = (
    "Several devices mean several processes, which import the script that starts them: "
    "put its code in a file below if __name__ == '__main__':, or train with devices=1."
)


def spread(model: nn.Module, data: Dataset, config: TrainConfig, arguments: Mapping[str, Any]) -> Fit:
    """Run `fit` in `config.devices` processes and load what the first one made into `model`.

    Raises what `fit` raises, `InputError` where the calling script lacks a main guard, `ModelError` for a model
    whose class other processes can't import.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        _report(InputError(GUARD))
        sys.exit(1)
    if hasattr(sys, "ps1") or not os.path.exists(
        getattr(sys.modules["__main__"], "__file__", None) or sys.executable
    ):
        raise InputError(GUARD)
    from secateur.training.strategy import Spread

    fabric = make_fabric(config, Spread())
    with tempfile.TemporaryDirectory(prefix="secateur-") as name, _surroundings(name):
        folder = Path(name)
        _pack(folder / PARCEL, model, data, config, dict(arguments))
        try:
            fabric.launch(_work)
        except ProcessException as error:
            told = _told(folder)
            if told is None and isinstance(error, ProcessExitedException):
                told = SecateurError(
                    f"A training process ended ({error}): try a smaller batch_size or fewer devices."
                )
            if told is None:
                raise
            raise told from None
        result = read_tree(folder / RESULT)
    model.load_state_dict(result["model"])
    return Fit(**result["fit"])


def _work(fabric: Fabric) -> None:
    """Train in one of the processes."""
    folder = Path(os.environ[EXCHANGE])
    try:
        model, data, config, arguments = _unpack(folder / PARCEL)
        fitted = fit(model, data, config, fabric, **arguments)
        if fabric.is_global_zero:
            write_tree(folder / RESULT, {"model": model.state_dict(), "fit": vars(fitted)})
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()  # left to the end of the process, its threads may abort it
    except SecateurError as error:
        _report(error)
        raise


def _pack(path: Path, model: nn.Module, *others: Any) -> None:
    try:
        torch.save((model, *others), path)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{type(model).__name__} can't be sent to other processes ({error}): define its class and functions at "
            "the top level of a module, or train with devices=1."
        ) from None


def _unpack(path: Path) -> Any:
    """Read what the parent process wrote a moment ago; the tensors stay in the file until they are changed."""
    try:
        return torch.load(path, mmap=True, weights_only=False)
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"A training process can't import the model's class ({error}): put it in a module."
        ) from None


def _report(error: SecateurError) -> None:
    """Leave the first process's error for the parent; what the others meet follows from it."""
    path = Path(os.environ[EXCHANGE]) / ERROR
    if not path.exists():
        write_json(path, [type(error).__name__, str(error)])


def _told(folder: Path) -> SecateurError | None:
    """Return the error a process left."""
    if not (folder / ERROR).exists():
        return None
    name, message = read_json(folder / ERROR)
    kind: type[SecateurError] = getattr(errors, name)
    return SecateurError(message) if issubclass(kind, errors.MissingExtraError) else kind(message)


@contextmanager
def _surroundings(folder: str) -> Iterator[None]:
    """Tell the processes about `folder`, keep the libraries quiet, and leave no process and no variable behind."""
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
    """Wait for a process that a Ctrl-C has reached as well; interrupt it, then kill it, where it does not end."""
    process.join(1)
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.is_alive():
            os.kill(process.pid, number)
            process.join(5)
