"""On how many of the models that people use does structural pruning work?

Takes half of the channels of every layer of every model of three suites: all of torchvision, a variant of every
timm family, and architectures of transformers. A model passes where the smaller one runs, gives outputs of the same
shapes, has less than 70 % of the parameters, and its verification holds. Every model is tried in a worker process,
which is replaced where it takes too long or dies. Rows are kept as they come, and a repeated call continues.

    python benchmarks/coverage.py [--suite timm] [--only 'resnet*'] [--jobs 2] [--torch-pruning] [--record]
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import fnmatch
import gc
import json
import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor, nn
from torch.utils import _pytree
from torchvision.models import VisionTransformer

from coverage_models import SUITES, Entry, by_prefix, forward
from harness import parser, record
from secateur.core.progress import bar, console
from secateur.core.tables import BYTES, COUNT, NUMBER, PERCENT, SI, Column, Format, Table

AMOUNT, LARGEST = 0.5, 0.7
"""Fraction of channels to cut, and of parameters that may stay."""
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
"""Relative error of a verification that holds, by what it ran in."""
KEPT = Path(__file__).parent.parent / ".benchmarks"
"""Where the rows of unfinished runs lie."""

Row = dict[str, Any]


# What is tried on a model ----------------------------------------------------------------------------------------


class Failed(Exception):
    """A result that is wrong, as a sentence."""


def by_forward(model: nn.Module, inputs: Any, entry: Entry) -> tuple[nn.Module, Row]:
    """Cut nothing: shows that the entries themselves work."""
    return model, {}


def by_secateur(model: nn.Module, inputs: Any, entry: Entry) -> tuple[nn.Module, Row]:
    import secateur

    result = secateur.prune(model, inputs, granularity="channel", amount=AMOUNT, scope="local")
    proof = result.verification
    if proof is None or not proof.error <= TOLERANCE[proof.dtype]:
        raise Failed(f"verification: {proof}")
    return result.model, {"error": proof.error, "dtype": proof.dtype}


def by_torch_pruning(model: nn.Module, inputs: Any, entry: Entry) -> tuple[nn.Module, Row]:
    """Torch-Pruning by its documentation: whole heads of attention, and where that fails dimensions of heads."""
    wanted = shapes(without_gradients(model, inputs), entry)
    for whole_heads in (True, False):
        smaller = copy.deepcopy(model)
        try:
            dependency_pruned(smaller, inputs, entry.name, whole_heads)
            if whole_heads and shapes(without_gradients(smaller, inputs), entry) != wanted:
                continue
            return smaller, {"heads": "whole" if whole_heads else "dimensions"}
        except Exception:
            if not whole_heads:
                raise
    raise AssertionError


ENGINES: dict[str, Callable[[nn.Module, Any, Entry], tuple[nn.Module, Row]]] = {
    "forward": by_forward,
    "secateur": by_secateur,
    "torch-pruning": by_torch_pruning,
}


def shapes(outputs: Any, entry: Entry) -> list[tuple[int, ...]]:
    """The shapes of all tensors in `outputs`; a detector's without the number of boxes."""
    found = [tuple(leaf.shape) for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [shape[1:] for shape in found] if entry.detects else found


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def attempt(entry: Entry, engine: str, say: Callable[[str], None]) -> Row:
    """Try `entry`: build it, run it, prune it, run it again. `say` hears which of these begins."""
    row: Row = {"suite": entry.suite, "name": entry.name}
    stage = "build"
    try:
        say(stage)
        model, inputs = entry.make()
        row["before"] = parameters(model)
        say(stage := "forward")
        wanted = shapes(without_gradients(model, inputs), entry)
        say(stage := "prune")
        lower_peak()
        began = time.perf_counter()
        smaller, found = ENGINES[engine](model, inputs, entry)
        row |= {"seconds": time.perf_counter() - began, "rss": peak(), "after": parameters(smaller), **found}
        say(stage := "check")
        given = shapes(without_gradients(smaller, inputs), entry)
        judge(row, wanted, given, engine)
        return {**row, "passed": True}
    except Exception as error:
        return {**row, "passed": False, "stage": stage, "reason": sentence(error, engine)}


def without_gradients(model: nn.Module, inputs: Any) -> Any:
    with torch.no_grad():
        return forward(model, inputs)


def judge(row: Row, wanted: Sequence[Any], given: Sequence[Any], engine: str) -> None:
    """Raise `Failed` where the smaller model is not what it should be."""
    if given != wanted:
        raise Failed(f"outputs of shapes {given[:3]}, not {wanted[:3]}")
    if engine != "forward" and row["after"] >= LARGEST * row["before"]:
        raise Failed(f"{row['after'] / row['before']:.0%} of the parameters left")


def sentence(error: Exception, engine: str) -> str:
    """One line: type, message, and the last line of the pruner's code on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"/{engine.replace('-', '_')}/" in frame.filename.replace("\\", "/")]
    text = " ".join(str(error).split())[:200]
    if isinstance(error, Failed) or not frames:
        return text
    last = (own or list(frames))[-1]
    place = "/".join(Path(last.filename).parts[-2:])
    return f"{type(error).__name__}: {text} ({place}:{last.lineno})"


def lower_peak() -> None:
    """Let the peak of this process's memory begin anew, where the system can (Linux)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The largest resident memory of this process since `lower_peak`, in bytes."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# Torch-Pruning ---------------------------------------------------------------------------------------------------

WEIGHTED = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
FUSED = ("qkv", "qkv_proj", "query_key_value", "Wqkv")
QUERIES = (*FUSED, "query", "q_proj", "q_lin", "q")
OTHERS = ("key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "k", "v", "kv")


REGIONS = ("rpn.head.cls_logits", "rpn.head.bbox_pred", "backbone.fpn", "roi_heads")
IGNORED: dict[str, tuple[str, ...]] = {
    "fasterrcnn_": REGIONS,
    "keypointrcnn_": REGIONS,
    "maskrcnn_": REGIONS,
    "ssd": ("head",),
    "raft_": ("update_block.flow_head", "mask_predictor"),
}
"""Modules that Torch-Pruning's own benchmark leaves alone, by prefix of the model's name."""


def dependency_pruned(model: nn.Module, inputs: Any, name: str, whole_heads: bool) -> None:
    """Prune `model` itself: half of every group, layers that make the outputs left alone."""
    import torch_pruning

    model.requires_grad_(True)
    attentions = dict(attention_layers(model))
    heads = {layer: number for layers in attentions.values() for layer, number in layers}
    widths = {module: query_width(module) for module in attentions}
    modules = dict(model.named_modules())
    ignored = [modules[path] for path in by_prefix(IGNORED, name, ()) if path in modules]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=AMOUNT,
        head_pruning_ratio=AMOUNT if whole_heads else 0.0,
        prune_num_heads=whole_heads,
        prune_head_dims=not whole_heads,
        num_heads=heads,
        out_channel_groups={module: 2 for path, module in modules.items() if path.endswith("gate_up_proj")},
        ignored_layers=[*output_layers(model, inputs), *ignored],
        forward_fn=forward,
        output_transform=lambda outputs: [
            leaf for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad
        ],
    )
    pruner.step()
    for module, layers in attentions.items():
        query, before = layers[0]
        resize(module, before, pruner.num_heads[query], widths[module], query_width(module))
    if isinstance(model, VisionTransformer):
        model.hidden_dim = model.conv_proj.out_channels


def attention_layers(model: nn.Module) -> Iterator[tuple[nn.Module, list[tuple[nn.Linear, int]]]]:
    """Yield every attention module with its projections (the query's first) and their numbers of heads."""
    for module in model.modules():
        children = {name: child for name, child in module.named_children() if isinstance(child, nn.Linear)}
        query = next((children[name] for name in QUERIES if name in children), None)
        number = number_of(module, HEADS)
        if query is not None and number:
            shared = number_of(module, ("num_key_value_heads",)) or number
            others = [(children[name], shared) for name in OTHERS if name in children]
            yield module, [(query, number), *others]


def query_width(module: nn.Module) -> int:
    """The width of the queries of an attention module, all heads together."""
    children = dict(module.named_children())
    name = next(name for name in QUERIES if name in children)
    width: int = children[name].out_features  # type: ignore[assignment]
    return width // (3 if name in FUSED else 1)


def number_of(module: nn.Module, names: Sequence[str]) -> int | None:
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            if isinstance(value := getattr(holder, name, None), int):
                return value
    return None


def resize(module: nn.Module, heads: int, heads_left: int, width: int, width_left: int) -> None:
    """Set the numbers an attention module holds: its heads, their size, and the width of all together."""
    sizes = {width: width_left, width // heads: width_left // heads_left}
    for name, value in vars(module).items():
        if name in HEADS:
            setattr(module, name, heads_left)
        elif type(value) is int and value in sizes and ("dim" in name or "size" in name):
            setattr(module, name, sizes[value])


def output_layers(model: nn.Module, inputs: Any) -> list[nn.Module]:
    """The layers that make the outputs: from each output back along the graph to the first weights."""
    owners = {
        id(parameter): module
        for module in model.modules()
        if isinstance(module, WEIGHTED)
        for parameter in module.parameters(recurse=False)
    }
    outputs = [leaf for leaf in _pytree.tree_leaves(forward(model, inputs)) if isinstance(leaf, Tensor)]
    found: dict[nn.Module, None] = {}
    waiting, seen = [output.grad_fn for output in outputs if output.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        before = [parent for parent, _ in node.next_functions if parent is not None]
        weights = [weight for parent in before if (weight := weight_of(parent)) is not None]
        layers = [owners[id(weight)] for weight in weights if id(weight) in owners]
        found.update(dict.fromkeys(layers))
        if not layers:
            waiting.extend(before)
    return list(found)


def weight_of(node: Any) -> Tensor | None:
    """The parameter that enters the graph at `node`, itself or transposed."""
    if node.name() in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
        node = node.next_functions[0][0]
    return getattr(node, "variable", None)


# Workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What a worker may use: seconds for each stage of a model, GiB, threads."""

    timeout: float
    memory: float
    threads: int


def serve(pipe: Any, engine: str, limits: Limits) -> None:
    """Try the models whose (suite, name) arrive, and send stages and rows, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    size = int(limits.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    torch.set_num_threads(limits.threads)
    suites = {suite: {entry.name: entry for entry in entries()} for suite, entries in SUITES.items()}
    with suppress(EOFError):
        while True:
            suite, name = pipe.recv()
            pipe.send(attempt(suites[suite][name], engine, lambda stage: pipe.send(stage)))
            gc.collect()


class Worker:
    """A process that tries one model after another; a new one takes its place when it has to be killed."""

    def __init__(self, engine: str, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self.process: Any = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.engine, self.limits), daemon=True)
        self.process.start()
        other.close()

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.join()

    def run(self, entry: Entry) -> Row:
        if self.process is None:
            self.start()
        process, pipe, stage = self.process, self.pipe, "start"
        try:
            pipe.send((entry.suite, entry.name))
            while pipe.poll(self.limits.timeout if stage != "start" else 120):
                answer = pipe.recv()
                if isinstance(answer, dict):
                    return answer
                stage = answer
            reason = f"timeout: {stage} took more than {self.limits.timeout:.0f} s"
        except (EOFError, OSError):
            process.join()
            reason = f"crash: the process ended with code {process.exitcode}"
        self.stop()
        return {
            "suite": entry.suite,
            "name": entry.name,
            "passed": False,
            "stage": stage,
            "reason": reason,
        }


def run_all(entries: Sequence[Entry], engine: str, limits: Limits, jobs: int) -> Iterator[Row]:
    """Yield a row for each entry as it is ready, with so many workers at a time."""
    waiting: queue.SimpleQueue[Entry] = queue.SimpleQueue()
    ready: queue.SimpleQueue[Row] = queue.SimpleQueue()
    for entry in entries:
        waiting.put(entry)
    workers = [Worker(engine, limits) for _ in range(min(jobs, len(entries)))]

    def work(worker: Worker) -> None:
        with suppress(queue.Empty):
            while True:
                ready.put(worker.run(waiting.get_nowait()))

    try:
        for worker in workers:
            threading.Thread(target=work, args=(worker,), daemon=True).start()
        for _ in entries:
            yield ready.get()
    finally:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        for worker in workers:
            worker.stop()


# Rows ------------------------------------------------------------------------------------------------------------


def read(engine: str) -> dict[tuple[str, str], Row]:
    """The kept rows of an engine; of several of one model the last."""
    path = KEPT / f"coverage-{engine}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["suite"], row["name"]): row for row in rows}


def keep(engine: str, row: Row) -> None:
    KEPT.mkdir(exist_ok=True)
    with (KEPT / f"coverage-{engine}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def line(row: Row) -> str:
    mark = "[green]pass[/]" if row["passed"] else "[red]FAIL[/]"
    facts = []
    if "before" in row and "after" in row:
        facts.append(f"{row['before'] / 1e6:.2f} M → {row['after'] / row['before']:.0%}")
    if "seconds" in row:
        facts.append(f"{row['seconds']:.1f} s, {row['rss'] / 1e9:.1f} GB")
    if row.get("error") is not None:
        facts.append(f"error {row['error']:.1e}")
    if not row["passed"]:
        facts.append(escape(f"{row['stage']}: {row['reason']}"))
    return f"{mark} {row['suite']} [bold]{escape(row['name'])}[/]  {'  '.join(facts)}"


def summary(rows: Sequence[Row]) -> Table:
    lines = []
    for suite in SUITES:
        own = [row for row in rows if row["suite"] == suite]
        timed = [row["seconds"] for row in own if "seconds" in row]
        if own:
            lines.append(
                {
                    "suite": suite,
                    "models": len(own),
                    "passed": sum(row["passed"] for row in own),
                    "share": sum(row["passed"] for row in own) / len(own),
                    "median": sorted(timed)[len(timed) // 2] if timed else None,
                    "longest": max(timed, default=None),
                    "rss": max((row["rss"] for row in own if "rss" in row), default=None),
                }
            )
    columns = [
        Column("suite", "Suite"),
        Column("models", "Models", COUNT),
        Column("passed", "Pass", COUNT),
        Column("share", "Share", PERCENT),
        Column("median", "Median time", SECONDS),
        Column("longest", "Longest", SECONDS),
        Column("rss", "Peak memory", BYTES),
    ]
    return Table(columns, lines)


SECONDS = Format(lambda value: f"{value:.1f} s")


@dataclass(frozen=True)
class Tables:
    """Several tables under their titles."""

    tables: dict[str, Table]

    def markdown(self) -> str:
        return "\n\n".join(f"**{title}**\n\n{table.markdown()}" for title, table in self.tables.items())


def tables(rows: Sequence[Row], others: dict[tuple[str, str], Row]) -> Tables:
    """The summary and a table for each suite; `others` are Torch-Pruning's rows of the same models."""
    found = {"All": summary(rows)}
    if others:
        found["All, by Torch-Pruning"] = summary(list(others.values()))
    columns = [
        Column("name", "Model"),
        Column("before", "Parameters", SI),
        Column("after", "After", SI),
        Column("seconds", "Time", SECONDS),
        Column("error", "Relative error", NUMBER),
        Column("verdict", "Verdict"),
        *([Column("other", "Torch-Pruning")] if others else []),
    ]
    for suite in SUITES:
        own = [
            {**row, "verdict": verdict(row), "other": verdict(others.get((suite, row["name"])))}
            for row in rows
            if row["suite"] == suite
        ]
        if own:
            found[suite] = Table(columns, own)
    return Tables(found)


def verdict(row: Row | None) -> str | None:
    if row is None:
        return None
    return "pass" if row["passed"] else row["reason"].partition(" (")[0].replace("|", "¦")[:80]


# Command ---------------------------------------------------------------------------------------------------------


def main() -> None:
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that workers are ended too
    engine = "forward" if given.forward_only else "torch-pruning" if given.torch_pruning else "secateur"
    entries = [entry for suite in given.suite or SUITES for entry in SUITES[suite]()]
    entries = [entry for entry in entries if fnmatch.fnmatch(entry.name, given.only)]
    known = {} if given.fresh else read(engine)
    if given.failed:
        known = {key: row for key, row in known.items() if row["passed"]}
    todo = [entry for entry in entries if (entry.suite, entry.name) not in known]
    limits = Limits(given.timeout, given.memory, given.threads or 1)
    with bar("models", total=len(todo)) as progress:
        for row in run_all(todo, engine, limits, given.jobs):
            keep(engine, row)
            known[row["suite"], row["name"]] = row
            console().print(line(row), soft_wrap=True)
            progress.advance()
    rows = [known[entry.suite, entry.name] for entry in entries]
    console().print(summary(rows).rich())
    if given.record:
        others = {} if engine == "torch-pruning" else read("torch-pruning")
        about = {
            "command": "python benchmarks/coverage.py",
            "amount": AMOUNT,
            "timeout": given.timeout,
            "seed": 0,
        }
        record("coverage_summary", {"engine": engine}, table=summary(rows), **about)
        record(
            "coverage",
            {"engine": engine, "rows": rows, "torch_pruning": list(others.values())},
            table=tables(rows, others),  # type: ignore[arg-type]
            **about,
        )
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


def options() -> argparse.Namespace:
    made = parser(__doc__, data=False)
    made.add_argument("--suite", action="append", choices=list(SUITES), help="only this one (repeatable)")
    made.add_argument("--only", default="*", metavar="GLOB", help="only models whose name fits")
    made.add_argument("--jobs", type=int, default=1, help="worker processes at a time")
    made.add_argument("--timeout", type=float, default=60, help="seconds each stage of a model may take")
    made.add_argument("--memory", type=float, default=12, help="GiB a worker may use")
    made.add_argument("--fresh", action="store_true", help="try models again that have a row")
    made.add_argument("--failed", action="store_true", help="try models again whose row is a failure")
    engines = made.add_mutually_exclusive_group()
    engines.add_argument("--forward-only", action="store_true", help="only build and run the models")
    engines.add_argument("--torch-pruning", action="store_true", help="let Torch-Pruning do it")
    made.add_argument("--record", action="store_true", help="write results/coverage.json")
    return made.parse_args()


if __name__ == "__main__":
    main()
