"""Which methods of a model's modules are running, told by Python's frames.

A number in the code is replaced while the method that holds it runs (see `shrink/overrides.py`), so a trace notes for
each call the innermost method of a module that can be taken over: a `forward`, or a method that is found on the
instance when it is called. Generators, properties, class methods and what `super()` reaches can't; their callers can.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Container
from types import CodeType, FrameType
from typing import Any

from torch import nn

from secateur.core.modules import named_modules
from secateur.graph.caches import Cache, cache_before
from secateur.graph.program import MethodRun

LAZY = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Frames:
    """The runs of methods of a model's modules, by the frames they run in."""

    def __init__(self, model: nn.Module) -> None:
        self.runs: list[MethodRun] = []
        self.caches: dict[CodeType, Cache[Any]] = {}
        self._seen: set[CodeType] = set()
        self._paths = {id(module): path for path, module in named_modules(model)}
        self._known: dict[
            int, tuple[FrameType, int | None]
        ] = {}  # id of a frame → it, so that it lives, and its run

    def enter(self, path: str, frame: FrameType) -> None:
        """Note that the forward of the module at `path` runs inside `frame`."""
        self._known[id(frame)] = frame, self._run(path, "forward")

    def running(self, frame: FrameType | None, end: CodeType) -> list[int]:
        """Return the runs from the code `end` inwards to `frame`; where a method calls itself, its outermost counts."""
        stack = []
        while frame is not None and frame.f_code is not end:
            stack.append(frame)
            frame = frame.f_back
        found: dict[tuple[str, str], int] = {}
        for each in reversed(stack):
            run = self._of(each, found)
            if run is not None:
                found.setdefault((self.runs[run].path, self.runs[run].method), run)
        return list(found.values())

    def helpers(self, frame: FrameType | None, end: CodeType) -> frozenset[CodeType]:
        """Return the code that runs between `frame` and the innermost run, but for torch's."""
        found = set()
        while (
            frame is not None
            and frame.f_code is not end
            and self._known.get(id(frame), (frame, None))[1] is None
        ):
            if frame.f_globals.get("__name__", "").partition(".")[0] != "torch":
                found.add(frame.f_code)
                self._note_cache(frame)
            frame = frame.f_back
        return frozenset(found)

    def _note_cache(self, frame: FrameType) -> None:
        if frame.f_code not in self._seen:
            self._seen.add(frame.f_code)
            if (cache := cache_before(frame)) is not None:
                self.caches[frame.f_code] = cache

    def _of(self, frame: FrameType, outside: Container[tuple[str, str]]) -> int | None:
        known = self._known.get(id(frame))
        if known is None:
            at = self._method(frame)
            known = frame, None if at is None or at in outside else self._run(*at)
            self._known[id(frame)] = known
        return known[1]

    def _run(self, path: str, method: str) -> int:
        self.runs.append(MethodRun(path, method, Counter()))
        return len(self.runs) - 1

    def _method(self, frame: FrameType) -> tuple[str, str] | None:
        """Return path and method if this frame runs a method that can be taken over."""
        code = frame.f_code
        if not code.co_argcount or code.co_flags & LAZY or hasattr(nn.Module, code.co_name):
            return None
        owner: Any = frame.f_locals.get(code.co_varnames[0])
        path = self._paths.get(id(owner))
        if path is None or not _found_on(owner, code):
            return None
        return path, code.co_name


def _found_on(owner: nn.Module, code: CodeType) -> bool:
    """Whether calling the method by its name on its module runs this code."""
    method = inspect.getattr_static(type(owner), code.co_name, None)
    return inspect.isfunction(method) and inspect.unwrap(method).__code__ is code
