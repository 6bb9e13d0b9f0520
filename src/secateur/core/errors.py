"""Exception types and the warning of the package.

Every message is one sentence with the cause and the remedy. The command line prints it and exits with code 2; no
other module ends the process.
"""

import re


def reason_of(error: BaseException) -> str:
    """Return the first sentence of an error of another package, without its full stop; its type if it is empty."""
    return re.split(r"[.!]\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__


class SecateurError(Exception):
    """Base of all errors of this package."""


class InputError(SecateurError, ValueError):
    """An invalid argument: an amount of 1.7, an unknown criterion, a layer that does not exist.

    `setting` is the name of the setting at fault if the sentence calls it "The setting NAME", else None.
    """

    setting: str | None = None


class ModelError(SecateurError):
    """A model that can't be built, traced or pruned: NaN weights, no weights at all, the wrong output."""


class DataError(SecateurError):
    """A data set that can't be found or read, or that doesn't fit the model."""


class StoreError(SecateurError, OSError):
    """A file or folder that can't be written or read, or whose content is corrupt or foreign."""


class MissingExtraError(SecateurError, ImportError):
    """A package is needed and not installed; `extra` is the extra of ours that has it, empty where none does."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        wanted = f"'secateur[{extra}]'" if extra else package
        super().__init__(f"{purpose} needs the package {package}: install it with pip install {wanted}.")


class VerificationError(ModelError):
    """A smaller model whose outputs differ from those of the large one without the removed units."""


class SecateurWarning(UserWarning):
    """A valid request with a probably unintended result, such as a method that cut no weight."""
