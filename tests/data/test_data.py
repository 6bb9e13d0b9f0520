"""Data sets and their sources: what they hold, and what they say when the data can't be had."""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from secateur import data
from secateur.core.errors import DataError, InputError
from secateur.data import DATA, Dataset, Split, images, standard
from secateur.data.dataset import pixel_statistics
from secateur.data.sampling import balanced_order, generator, held_out

PLAIN = [name for name, entry in DATA.items() if entry.argument is None]
PREFIXED = [name for name, entry in DATA.items() if entry.argument is not None]


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def png(seed: int, **arguments) -> bytes:
    stream = io.BytesIO()
    picture(seed, **arguments).save(stream, "PNG")
    return stream.getvalue()


def tree(top: Path, counts: dict[str, int], **arguments) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        (top / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * label + number, **arguments).save(top / name / f"{number:03}.png")
    return top


def pixels(seed: int, **arguments) -> torch.Tensor:
    return torch.from_numpy(np.array(picture(seed, **arguments))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "good", "bad", "film", '"'])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return str(folder)


# --- splits and data sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int32)),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1, 0])),
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)),
        ({"input_ids": torch.zeros(3, 4)}, torch.zeros(3, dtype=torch.int64)),
        ({"input_ids": torch.zeros(2, 4, dtype=torch.int64)}, torch.zeros(3, dtype=torch.int64)),
        ({}, torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_a_split_checks_itself(inputs, labels):
    with pytest.raises(DataError):
        Split(inputs, labels)


def test_a_data_set_checks_itself():
    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    wide = Split(torch.zeros(3, 1, 2, 3, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    text = Split({"input_ids": torch.zeros(3, 2, dtype=torch.int32)}, torch.tensor([0, 1, 2]))
    for parts in [
        (split, split, ("a", "b"), (0.5,), (0.5,)),
        (split, wide, ("a", "b", "c"), (0.5,), (0.5,)),
        (split, text, ("a", "b", "c"), (0.5,), (0.5,)),
        (text, text, ("a", "b", "c"), (0.5,), (0.5,)),
        (split, split, ("a", "b", "c"), None, None),
        (split, split, ("a", "b", "c"), (0.5, 0.5), (0.5, 0.5)),
        (split, split, ("a", "b", "c"), (0.5,), (0.0,)),
    ]:
        with pytest.raises(DataError, match="toy"):
            Dataset("toy", *parts)


def test_take_gives_views_of_the_first_rows():
    split = Split(torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2), torch.tensor([0, 1, 2]))
    first = split.take(2)
    assert len(first) == 2
    assert first.inputs.data_ptr() == split.inputs.data_ptr()
    assert len(split.take(9)) == 3
    with pytest.raises(InputError):
        split.take(0)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_every_prefix_of_the_balanced_order_is_as_balanced_as_can_be(labels, seed):
    tensor = torch.tensor(labels)
    order = balanced_order(tensor, generator(seed))
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    totals = tensor.bincount(minlength=5)
    for size in range(1, len(labels) + 1):
        counts = tensor[order[:size]].bincount(minlength=5)
        unfinished = counts[counts < totals]
        if len(unfinished):  # a class with examples left is at most one behind any other
            assert counts.max() - unfinished.min() <= 1


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_holding_out_takes_the_share_of_every_class(labels):
    tensor = torch.tensor(labels)
    mask = held_out(tensor, 0.2, generator("x"))
    for label in set(labels):
        assert int(mask[tensor == label].sum()) == round(labels.count(label) * 0.2)


def test_subset_is_balanced_repeatable_and_nested():
    whole = data.load("digits")
    small, large = whole.subset(50, 20, seed=1), whole.subset(100, None, seed=1)
    assert small.train.labels.bincount().tolist() == [5] * 10
    assert small.test.labels.bincount().tolist() == [2] * 10
    assert len(large.test) == 360
    assert torch.equal(large.train.inputs[:50], small.train.inputs)
    assert not torch.equal(whole.subset(50, seed=2).train.labels, small.train.labels)
    assert len(whole.subset(10**6).train) == 1437
    assert small.fingerprint() == data.load("digits", subset=(50, 20), seed=1).fingerprint()


def test_fingerprint_tells_contents_apart():
    whole = data.load("digits")
    assert whole.fingerprint() == data.load("digits").fingerprint()
    changed = whole.train.labels.clone()
    changed[700] = (changed[700] + 1) % 10
    other = Dataset(
        "digits", Split(whole.train.inputs, changed), whole.test, whole.classes, whole.mean, whole.std
    )
    assert len({whole.fingerprint(), other.fingerprint(), whole.subset(64).fingerprint()}) == 3


def test_example_is_the_normalised_test_split():
    whole = data.load("digits")
    example = whole.example(3)
    expected = (whole.test.inputs[:3].double() / 255 - whole.mean[0]) / whole.std[0]
    assert example.dtype == torch.float32
    torch.testing.assert_close(example.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(whole.example(361)[360], example[0])


def test_pixel_statistics_are_mean_and_deviation():
    pixels = torch.randint(
        0, 256, (5000, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    pixels[:, 1] = 7
    mean, std = pixel_statistics(pixels)
    exact = pixels[:, 0].double() / 255
    assert mean == pytest.approx((exact.mean().item(), 7 / 255))
    assert std == pytest.approx((exact.std(correction=0).item(), 1.0))


# --- names --------------------------------------------------------------------------------------------------


def test_every_source_is_listed_with_a_summary():
    listed = dict(data.names())
    assert {name.partition(":")[0] for name in listed} == set(DATA)
    assert all(listed.values())
    assert {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder:PATH", "hf:NAME"} <= set(
        listed
    )


def test_an_unknown_name_meets_the_nearest_ones():
    with pytest.raises(InputError, match=r"did you mean .*mnist"):
        data.load("mnits")


@pytest.mark.parametrize("name", PREFIXED)
def test_a_source_with_an_argument_asks_for_it(name):
    with pytest.raises(InputError, match=f"{name}:"):
        data.load(name)
    if name == "hf":
        pytest.importorskip("datasets")
    with pytest.raises(DataError, match="nowhere"):
        data.load(f"{name}:nowhere/at/all", download=False)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_source_takes_no_argument(name):
    with pytest.raises(InputError, match="nothing after"):
        data.load(f"{name}:there")


@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"digits"}))
def test_missing_files_are_one_sentence(name, tmp_path):
    with pytest.raises(DataError, match="downloading is switched off") as raised:
        data.load(name, tmp_path, download=False)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"digits"}))
def test_a_download_that_fails_says_why_and_cannot_hang(name, tmp_path, monkeypatch):
    timeouts = []

    def unreachable(*arguments, **others):
        timeouts.append(socket.getdefaulttimeout())
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    with pytest.raises(DataError, match="no route to host"):
        data.load(name, tmp_path)
    assert set(timeouts) == {standard.DOWNLOAD_TIMEOUT}
    assert socket.getdefaulttimeout() is None


def test_damaged_files_are_reported_not_parsed(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(struct.pack(">IIII", 2051, 10, 28, 28) + b"short")
    with pytest.raises(DataError, match="damaged"):
        data.load("mnist", tmp_path, download=False)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ):
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match="corrupted"):
        data.load("cifar10", tmp_path, download=False)


# --- normalisation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mean", "std"),
    [("none", (0.0,), (1.0,)), ("0.5/0.25", (0.5,), (0.25,)), (None, pytest.approx((0.30514,), 1e-3), None)],
)
def test_normalisation_by_name_or_numbers(text, mean, std):
    loaded = data.load("digits", normalize=text)
    assert loaded.mean == mean
    assert std is None or loaded.std == std


@pytest.mark.parametrize(
    "text", ["imagnet", "1,2/3", "0.5/0", "a/b", "0.5", "0.5/nan", "", "1/2/3", "imagenet"]
)
def test_a_normalisation_that_makes_no_sense_is_refused(text):
    with pytest.raises(InputError):
        data.load("digits", normalize=text)


def test_imagenet_constants_serve_colour_images(tmp_path):
    loaded = data.load(f"folder:{tree(tmp_path / 'x', {'a': 5, 'b': 5})}", normalize="imagenet")
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert loaded.std == (0.229, 0.224, 0.225)


# --- digits -------------------------------------------------------------------------------------------------


def test_digits_are_always_there():
    loaded = data.load("digits", download=False)
    assert (len(loaded.train), len(loaded.test)) == (1437, 360)
    assert loaded.input_shape == (1, 8, 8)
    assert loaded.num_classes == 10
    assert loaded.train.inputs.max() == 255
    images: Any = [loaded.train.inputs, loaded.test.inputs]
    rows = torch.cat(images).flatten(1)
    from sklearn.datasets import load_digits

    expected = torch.from_numpy(load_digits().data * 255 / 16).round().to(torch.uint8)
    assert torch.equal(rows.unique(dim=0), expected.unique(dim=0))
    normalised = loaded.normalised(loaded.train.inputs)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-4)
    assert normalised.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_image_size_and_its_refusals():
    assert data.load("digits", image_size=12).input_shape == (1, 12, 12)
    assert data.load("digits", image_size=8).fingerprint() == data.load("digits").fingerprint()
    with pytest.raises(InputError, match="image size"):
        data.load("digits", image_size=0)
    with pytest.raises(DataError, match="GiB"):
        data.load("digits", image_size=100_000)
    with pytest.raises(InputError, match="tokenizer"):
        data.load("digits", tokenizer="x")


# --- folders ------------------------------------------------------------------------------------------------


def test_a_folder_with_splits(tmp_path):
    tree(tmp_path / "train", {"ant": 3, "bee": 2, "cat": 1})
    tree(tmp_path / "val", {"ant": 1, "cat": 1})
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.classes == ("ant", "bee", "cat")
    assert loaded.input_shape == (3, 8, 8)
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert loaded.test.labels.tolist() == [0, 2]
    assert torch.equal(loaded.train.inputs[3], pixels(100))
    assert torch.equal(loaded.test.inputs[1], pixels(100))  # `val` numbers its classes from its own first


def test_a_folder_without_splits_holds_out_a_fifth(tmp_path):
    tree(tmp_path / "all", {"ant": 10, "bee": 20})
    loaded = data.load(f"folder:{tmp_path / 'all'}")
    assert loaded.train.labels.bincount().tolist() == [8, 16]
    assert loaded.test.labels.bincount().tolist() == [2, 4]
    assert loaded.fingerprint() == data.load(f"folder:{tmp_path / 'all'}").fingerprint()
    everything = {
        bytes(row.numpy()): int(label)
        for split in (loaded.train, loaded.test)
        for row, label in zip(split.inputs, split.labels, strict=True)
    }
    expected = {
        bytes(pixels(100 * label + number).contiguous().numpy()): label
        for label, count in enumerate((10, 20))
        for number in range(count)
    }
    assert everything == expected


def test_images_of_many_sizes_are_scaled_and_cropped(tmp_path):
    tree(tmp_path / "x", {"ant": 5}, size=(40, 20))
    tree(tmp_path / "y", {"bee": 5}, size=(20, 30), mode="L")
    (tmp_path / "y" / "bee").rename(tmp_path / "x" / "bee")
    source = f"folder:{tmp_path / 'x'}"
    assert data.load(source).input_shape == (3, 224, 224)
    loaded = data.load(source, image_size=20)
    assert loaded.input_shape == (3, 20, 20)
    first = int((loaded.train.labels == 0).long().argmax())
    candidates = [pixels(number, size=(40, 20))[:, :, 10:30] for number in range(5)]
    assert any(torch.equal(loaded.train.inputs[first], candidate) for candidate in candidates)


def test_bad_folders_are_explained(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "hollow" / "ant").mkdir(parents=True)
    tree(tmp_path / "half" / "train", {"ant": 2})
    tree(tmp_path / "other" / "train", {"ant": 2})
    tree(tmp_path / "other" / "test", {"bee": 2})
    tree(tmp_path / "few", {"ant": 1})
    for name, said in [
        ("empty", "class folders"),
        ("hollow", "no images"),
        ("half", "only one of"),
        ("other", "bee"),
        ("few", "too few"),
    ]:
        with pytest.raises(DataError, match=said) as raised:
            data.load(f"folder:{tmp_path / name}")
        assert str(tmp_path) in str(raised.value)
    tree(tmp_path / "good", {"ant": 10})
    monkeypatch.setattr(images, "available_memory", lambda: 3000)
    with pytest.raises(DataError, match="GiB"):
        data.load(f"folder:{tmp_path / 'good'}")


@pytest.mark.parametrize("size", [None, 8])
def test_a_corrupt_image_is_named(tmp_path, size):
    tree(tmp_path / "x", {"ant": 10})
    (tmp_path / "x" / "ant" / "005.png").write_bytes(png(0)[:60])
    with pytest.raises(DataError, match=r"005\.png"):
        data.load(f"folder:{tmp_path / 'x'}", image_size=size)


def test_available_memory_is_a_plausible_number():
    assert 2**26 < images.available_memory() < 2**50


# --- tables -------------------------------------------------------------------------------------------------


def write_images(
    path: Path, seeds: range, *, raw: bool = False, column: str = "image", label: str = "label", **others
):
    blobs = [png(seed, **others) for seed in seeds]
    cells = blobs if raw else [{"bytes": blob, "path": None} for blob in blobs]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({column: cells, label: [seed % 2 for seed in seeds]}), path)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("held", ["test-00000", "validation", "dev"])
def test_parquet_images(tmp_path, raw, held):
    write_images(tmp_path / "train-0.parquet", range(4), raw=raw)
    write_images(tmp_path / "train-1.parquet", range(4, 6), raw=raw)
    write_images(tmp_path / f"{held}.parquet", range(6, 8), raw=raw)
    loaded = data.load(f"parquet:{tmp_path}")
    assert (len(loaded.train), len(loaded.test)) == (6, 2)
    assert loaded.train.labels.tolist() == [0, 1] * 3
    assert torch.equal(loaded.test.inputs[1], pixels(7))
    assert loaded.mean == pytest.approx((loaded.train.inputs.double() / 255).mean((0, 2, 3)).tolist())
    files = f"{tmp_path / 'train-0.parquet'},{tmp_path / held}.parquet"
    assert len(data.load(f"parquet:{files}").train) == 4


def test_parquet_keeps_greyscale(tmp_path):
    write_images(tmp_path / "train.parquet", range(4), mode="L")
    write_images(tmp_path / "test.parquet", range(2), mode="L")
    assert data.load(f"parquet:{tmp_path}").input_shape == (1, 8, 8)


@pytest.mark.parametrize(("name", "label"), [("cifar10", "label"), ("cifar100", "fine_label")])
def test_cifar_prefers_parquet(tmp_path, name, label):
    for split, seeds in (("train", range(4)), ("test", range(2))):
        path = tmp_path / name / f"{split}-00000-of-00001.parquet"
        write_images(path, seeds, column="img", label=label, size=(32, 32))
    loaded = data.load(name, tmp_path, download=False)
    assert loaded.name == name
    assert loaded.augmentation == "crop-flip"
    assert loaded.mean == {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}[name]


def test_bad_parquet_is_explained(tmp_path):
    good = tmp_path / "good.parquet"
    write_images(good, range(4))
    cases = {
        "garbage": b"PAR1 nonsense",
        "nolabel": pa.table({"image": [png(0)]}),
        "nothing": pa.table({"label": [0, 1], "width": [1, 2]}),
        "float": pa.table({"image": [png(0)], "label": [0.5]}),
        "gaps": pa.table({"image": [png(0), png(1)], "label": [0, None]}),
        "null": pa.table({"image": [png(0), None], "label": [0, 1]}),
        "broken": pa.table({"image": [png(0), b"junk"], "label": [0, 1]}),
        "far": pa.table({"image": [png(0), png(1)], "label": [0, 10**9]}),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            parquet.write_table(content, path)
        with pytest.raises(DataError) as raised:
            data.load(f"parquet:{path},{path}")
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="no such file"):
        data.load(f"parquet:{good},{tmp_path / 'absent.parquet'}")
    words = tmp_path / "words.parquet"
    parquet.write_table(pa.table({"image": [png(0)], "label": ["cat"]}), words)
    with pytest.raises(DataError, match="type"):
        data.load(f"parquet:{good},{words}")


def test_hidden_labels_are_passed_over(tmp_path):
    write_images(tmp_path / "train.parquet", range(4))
    write_images(tmp_path / "validation.parquet", range(2))
    parquet.write_table(pa.table({"image": [png(0)], "label": [-1]}), tmp_path / "test.parquet")
    assert len(data.load(f"parquet:{tmp_path}").test) == 2
    (tmp_path / "validation.parquet").unlink()
    with pytest.raises(DataError, match="no labelled split"):
        data.load(f"parquet:{tmp_path}")


def test_tab_separated_text(tmp_path, tokenizer):
    (tmp_path / "train.tsv").write_text('sentence\tlabel\na good film\t1\n" bad\t0\na bad film , really\t0\n')
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nbad film\t0\ngood\t1\n")
    loaded = data.load(f"table:{tmp_path}", tokenizer=tokenizer, max_length=4)
    assert loaded.input_shape is None
    assert loaded.classes == ("0", "1")
    assert loaded.train.labels.tolist() == [1, 0, 0]
    assert loaded.train.inputs["input_ids"].tolist() == [[2, 3, 5, 0], [6, 4, 0, 0], [2, 4, 5, 1]]
    assert loaded.train.inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert loaded.test.inputs["input_ids"].tolist() == [[4, 5], [3, 0]]
    assert loaded.example(2)["input_ids"].tolist() == [[4, 5], [3, 0]]
    with pytest.raises(InputError, match="normalise"):
        data.load(f"table:{tmp_path}", tokenizer=tokenizer, normalize="imagenet")
    with pytest.raises(InputError, match="image size"):
        data.load(f"table:{tmp_path}", tokenizer=tokenizer, image_size=32)
    with pytest.raises(InputError, match="name a tokenizer"):
        data.load(f"table:{tmp_path}")
    with pytest.raises(DataError, match="nowhere"):
        data.load(f"table:{tmp_path}", tokenizer="nowhere/at-all", download=False)


def test_comma_separated_pairs_with_named_labels(tmp_path, tokenizer):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(
            'sentence1,sentence2,label\n"a, good",film,yes\nbad,film,no\n', encoding="utf-8"
        )
    loaded = data.load(f"table:{tmp_path}", tokenizer=tokenizer)
    assert loaded.classes == ("no", "yes")
    assert loaded.train.labels.tolist() == [1, 0]
    assert loaded.train.inputs["input_ids"].tolist() == [[2, 1, 3, 5], [4, 5, 0, 0]]


def test_hugging_face_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, count in (("train", 6), ("test", 4)):
        tree(tmp_path / "x" / split, {"ant": count, "bee": count})
    loaded = data.load(f"hf:{tmp_path / 'x'}", download=False)
    assert loaded.classes == ("ant", "bee")
    assert loaded.test.labels.bincount().tolist() == [4, 4]
    assert loaded.input_shape == (3, 8, 8)


# --- real data ----------------------------------------------------------------------------------------------


FILES = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar10/*.parquet",
    "cifar100": "cifar100/*.parquet",
}
"""Where each data set lies below SECATEUR_DATA."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs_data(files)) for name, files in FILES.items()]
)
def test_real_data_have_the_published_counts_and_constants(name):
    loaded = data.load(name, os.environ["SECATEUR_DATA"], download=False)
    per_class = {"mnist": None, "cifar100": 500}.get(name, 5000 if name == "cifar10" else 6000)
    held = 10_000
    assert len(loaded.train) == (50_000 if name.startswith("cifar") else 60_000)
    assert len(loaded.test) == held
    if per_class:
        assert loaded.train.labels.bincount().tolist() == [per_class] * loaded.num_classes
        assert loaded.test.labels.bincount().tolist() == [held // loaded.num_classes] * loaded.num_classes
    mean, std = pixel_statistics(loaded.train.inputs)
    assert mean == pytest.approx(loaded.mean, abs=1e-4)
    assert std == pytest.approx(loaded.std, abs=1e-4)


def test_within_held_the_last_data_set_is_read_once(monkeypatch):
    entry, read = DATA["digits"], []
    counting = dataclasses.replace(entry, read=lambda request: (read.append(request), entry.read(request))[1])
    monkeypatch.setitem(DATA._items, "digits", counting)
    with data.held():
        first = data.load("digits")
        with data.held():
            assert data.load("digits").train.inputs is first.train.inputs
        assert data.load("digits", subset=50).fingerprint() != first.fingerprint()
        assert len(read) == 1
        data.load("digits", max_length=64)
        data.load("digits")
        assert len(read) == 3, "another request takes the place of the last one"
    data.load("digits")
    data.load("digits")
    assert len(read) == 5, "nothing is kept when the block has ended"
