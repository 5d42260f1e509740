"""Data sets that come by name, and MNIST from its files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from thalweg.learn.data import Schema
from thalweg.learn.datasets import BUNDLED, load_bundled

MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
SHAPES = {
    "digits": (1797, 64, 10),
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
    "breast_cancer": (569, 30, 2),
    "diabetes": (442, 10, None),
    "moons": (1000, 2, 2),
    "circles": (1000, 2, 2),
    "spirals": (1000, 2, 2),
}


@pytest.mark.parametrize("name", [name for name in BUNDLED if name != "mnist"])
def test_every_name_is_a_table_that_a_model_can_take(name):
    rows, inputs, classes = SHAPES[name]
    bundled = load_bundled(name)
    assert bundled.frame.shape == (rows, inputs + 1)
    assert bundled.frame.columns[-1] == bundled.target
    assert bundled.frame.notna().all(axis=None)
    schema = Schema.learn(bundled.frame, bundled.target)
    assert schema.target.task == bundled.task  # as it would be decided for a file
    assert len(schema.target.classes) == (classes or 0)
    assert np.isfinite(schema.features(bundled.frame)).all()


@pytest.mark.parametrize("name", ["moons", "circles", "spirals"])
def test_toys_are_the_same_each_time_and_balanced(name):
    one, other = load_bundled(name).frame, load_bundled(name).frame
    assert one.equals(other)
    assert one["class"].value_counts().tolist() == [500, 500]


def test_labels_are_words_where_there_are_words():
    assert set(load_bundled("iris").frame["species"]) == {"setosa", "versicolor", "virginica"}
    assert set(load_bundled("digits").frame["digit"]) == set(range(10))


def test_an_unknown_name():
    with pytest.raises(ValueError, match="no bundled data set 'irises'; choose from digits, iris"):
        load_bundled("irises")


@pytest.mark.skipif(not MNIST.is_dir(), reason="the files of mnist are not there")
def test_mnist_is_what_it_is_known_to_be():
    mnist = load_bundled("mnist", str(MNIST))
    assert (mnist.frame.shape, mnist.target, mnist.task) == ((70_000, 785), "digit", "classification")
    digits = mnist.frame["digit"].to_numpy()
    assert digits[:5].tolist() == [5, 0, 4, 1, 9]
    assert digits[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    pixels = mnist.frame.to_numpy()[:, :-1]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert pixels[:60_000].mean() / 255 == pytest.approx(0.1307, abs=5e-5)  # the mean that everyone normalises by


def idx(array):
    """The bytes of an IDX file."""
    array = np.asarray(array, dtype=np.uint8)
    return struct.pack(f">{array.ndim + 1}i", 2048 + array.ndim, *array.shape) + array.tobytes()


IMAGES = {"train": np.arange(5 * 9).reshape(5, 3, 3), "t10k": 100 + np.arange(2 * 9).reshape(2, 3, 3)}
LABELS = {"train": [0, 1, 2, 1, 0], "t10k": [2, 1]}


def write(folder, *, dot="-", packed=False, **changes):
    """Small files of mnist; `changes` says what a file holds instead, or None for none."""
    for part in IMAGES:
        for kind, dims, array in (("images", 3, IMAGES[part]), ("labels", 1, LABELS[part])):
            content = changes.get(f"{part}_{kind}", idx(array))
            if content is not None:
                path = folder / f"{part}-{kind}{dot}idx{dims}-ubyte{'.gz' if packed else ''}"
                path.write_bytes(gzip.compress(content) if packed else content)
    return str(folder)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_files_are_read_plain_and_packed(tmp_path, packed, dot):
    frame = load_bundled("mnist", write(tmp_path, packed=packed, dot=dot)).frame
    assert frame["digit"].tolist() == [0, 1, 2, 1, 0, 2, 1]
    assert frame.columns[:4].tolist() == ["pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0"]
    assert frame.iloc[1, :9].tolist() == list(range(9, 18))
    assert frame.iloc[5, :9].tolist() == list(range(100, 109))


def test_images_need_not_be_square(tmp_path):
    wide = {f"{part}_images": idx(images[:, :2]) for part, images in IMAGES.items()}
    frame = load_bundled("mnist", write(tmp_path, **wide)).frame
    assert frame.columns.tolist() == [f"pixel_{row}_{column}" for row in range(2) for column in range(3)] + ["digit"]
    assert frame.iloc[1, :6].tolist() == list(range(9, 15))


def test_images_may_be_in_colour(tmp_path):
    colour = {f"{part}_images": idx(np.repeat(images[..., None], 3, axis=3)) for part, images in IMAGES.items()}
    bundled = load_bundled("mnist", write(tmp_path, **colour))
    assert bundled.frame.columns[:4].tolist() == ["pixel_0_0_red", "pixel_0_0_green", "pixel_0_0_blue", "pixel_0_1_red"]
    assert bundled.frame.iloc[1, :6].tolist() == [9, 9, 9, 10, 10, 10]
    assert bundled.images.describe() == "3 × 3 pixels in colour"
    one = {f"{part}_images": idx(images[..., None]) for part, images in IMAGES.items()}
    assert load_bundled("mnist", write(tmp_path, **one)).frame.columns[0] == "pixel_0_0"


DAMAGES = [
    ({"train_images": None}, "lacks train-images-idx3-ubyte"),
    ({"t10k_labels": None}, "lacks t10k-labels-idx1-ubyte"),
    ({"train_images": idx(IMAGES["train"])[:-1]}, "train-images-idx3-ubyte.* is damaged: it announces 5 × 3 × 3 bytes"),
    ({"train_images": idx(IMAGES["train"]) + b"0"}, "is damaged"),
    ({"train_images": idx(IMAGES["train"])[:10]}, "no IDX file of images"),
    ({"train_images": b""}, "no IDX file of images: it should begin with the number 2051 or 2052"),
    ({"train_labels": idx(IMAGES["train"])}, "no IDX file of labels: it should begin with the number 2049"),
    ({"train_labels": idx([0, 1])}, "5 train images but 2 labels"),
    ({"t10k_images": idx(np.zeros((2, 4, 3)))}, "t10k images of one size, but has 3 × 3 and 4 × 3 pixels"),
    ({"t10k_images": idx(np.zeros((2, 9, 1)))}, "t10k images of one size, but has 3 × 3 and 9 × 1 pixels"),
    ({f"{part}_images": idx(np.zeros((len(LABELS[part]), 3, 3, 4))) for part in LABELS}, "1 or 3 numbers .* but has 4"),
    ({f"{part}_images": idx(np.zeros((len(LABELS[part]), 3, 0))) for part in LABELS}, "but has 3 × 0 and 3 × 0 pixels"),
    ({"train_images": struct.pack(">4i", 2051, -5, 3, -3) + bytes(45)}, "is damaged"),
    ({"train_images": struct.pack(">4i", 2051, 2**30, 2**30, 16)}, "is damaged"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("changes", "message"), DAMAGES)
def test_damaged_idx_files_are_named(tmp_path, packed, changes, message):
    with pytest.raises(ValueError, match=message):
        load_bundled("mnist", write(tmp_path, packed=packed, **changes))


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-12], lambda c: c[:20], lambda c: c[:12] + b"\xff" * 20 + c[32:], lambda c: b"not packed"]
)
def test_damaged_packing_is_named(tmp_path, damage):
    write(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz could not be read"):
        load_bundled("mnist", str(tmp_path))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="data_dir must be a folder that holds the IDX files of mnist"):
        load_bundled("mnist", str(tmp_path / "nowhere"))
