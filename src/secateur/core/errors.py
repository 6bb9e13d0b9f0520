"""What can go wrong, as exception types a caller can catch, and what probably went wrong, as a warning.

Every message is one sentence that names the thing at fault and the way out. The command line prints that
sentence and exits with code 2; nothing else in the package ends a process.
"""

import re


def reason_of(error: BaseException) -> str:
    """Return the first sentence of somebody else's error, without its full stop; its type where it says nothing."""
    return re.split(r"[.!]\s|\n", str(error).strip())[0].rstrip(".") or type(error).__name__


class SecateurError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(SecateurError, ValueError):
    """An argument that makes no sense: an amount of 1.7, an unknown criterion, a layer that isn't there.

    `setting` is the name of the setting at fault, where the sentence calls it "The setting NAME".
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
    """A smaller model that does not compute what the large one computes without the removed units."""


class SecateurWarning(UserWarning):
    """What was done as asked, and is hardly what was wanted: a method that has cut nothing."""
