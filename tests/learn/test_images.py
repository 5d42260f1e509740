"""Images: whatever a file holds, a model sees the same pixels, in training and after; folders say the classes."""

import os
import shutil
import struct
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from thalweg.learn import images
from thalweg.learn.compare import CONTENDERS, compare
from thalweg.learn.config import Config
from thalweg.learn.data import Schema
from thalweg.learn.images import ImageForm, read_folder, read_images
from thalweg.learn.runs import Run, prepare, train_run
from thalweg.learn.tables import load_table

RNG = np.random.default_rng(0)
TINTED = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (4, 6), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (4, 6), dtype=np.uint8)


def save(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def photos(folder, classes=("cat", "dog"), count=4, size=(4, 6), grey=False):
    """A folder with some images of each class, darker in one than in the next."""
    for number, name in enumerate(classes):
        for n in range(count):
            pixels = RNG.integers(0, 100, (*size, 3)) + 150 * number // len(classes)
            save(folder / name / f"{n}.png", (pixels[..., 0] if grey else pixels).astype(np.uint8))
    return folder


def read(path, **options):
    """The pixels of one image, and its form."""
    found = read_images(path.parent, [path.name], **options)
    shape = (found.form.height, found.form.width) + ((3,) if found.form.colour == "rgb" else ())
    return found.frame.to_numpy().reshape(shape), found.form


def configure(source, *settings):
    quick = ["training.max_epochs=2", "model.width=8", "model.state_dim=8"]
    return Config().with_overrides([f"data.source={source}", *quick, *settings])


# --- pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "PNG", "bmp", "tif", "tiff", "webp", "ppm", "tga"])
@pytest.mark.parametrize("pixels", [TINTED, GREY], ids=["colour", "grey"])
def test_every_lossless_format_gives_the_pixels_that_were_saved(tmp_path, ending, pixels):
    seen, form = read(save(tmp_path / f"a.{ending}", pixels, **{"lossless": True} if ending == "webp" else {}))
    assert form.colour == ("grey" if pixels.ndim == 2 else "rgb")
    np.testing.assert_array_equal(seen, pixels)


def on_white(pixels, alpha):
    alpha = alpha / 255 if pixels.ndim == 2 else alpha[..., None] / 255
    return pixels * alpha + 255 * (1 - alpha)


PALETTE = Image.fromarray(TINTED).quantize(8)
SEE_THROUGH = Image.fromarray(np.dstack([TINTED, ALPHA]))
INK = Image.fromarray(TINTED).convert("CMYK")


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("rgba.png", SEE_THROUGH, on_white(TINTED, ALPHA)),
        ("la.png", Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), on_white(GREY, ALPHA)),
        ("palette.png", PALETTE, np.asarray(PALETTE.convert("RGB"))),
        ("palette.gif", PALETTE, np.asarray(PALETTE.convert("RGB"))),
        ("ink.tif", INK, TINTED),  # of which no black was taken out
        ("bits.png", Image.fromarray(GREY > 99), 255 * (GREY > 99)),
        ("sixteen.png", Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (
            "sixteen.tif",
            Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6)),
            np.arange(24).reshape(4, 6) / 257,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:'mode' parameter")
def test_what_a_pixel_means_is_heard(tmp_path, name, image, expected):
    """Transparency is laid on white, palettes are looked up, ink is light, 16 bits are not cut off."""
    seen, _ = read(save(tmp_path / name, image))
    np.testing.assert_allclose(seen, expected, atol=1 if "a.png" in name else 1e-3)


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    seen, _ = read(save(tmp_path / "a.gif", image, transparency=1))
    assert seen[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_sixteen_bits_with_a_transparent_shade_are_laid_on_white(tmp_path):
    """That shade alone: one beside it, which 8 bits would not tell from it, is seen."""
    shades = np.array([[1000, 1001], [0, 1000]], dtype=np.uint16)
    seen, _ = read(save(tmp_path / "a.png", shades, transparency=1000))
    np.testing.assert_allclose(seen, [[255, 1001 / 257], [0, 255]], rtol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["tif", "png", "jpg"])
def test_an_image_is_seen_as_it_was_held(tmp_path, orientation, ending):
    """By its EXIF orientation, the size that is chosen from it too."""
    corner = np.zeros((8, 16), dtype=np.uint8)
    corner[:4, :4] = 255  # at the upper left of what was seen
    turned = {
        1: corner,
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.T,
        6: np.rot90(corner),
        7: corner[::-1, ::-1].T,
        8: np.rot90(corner, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen, form = read(save(tmp_path / f"a.{ending}", np.ascontiguousarray(turned), exif=exif))
    assert (form.height, form.width) == (8, 16)
    np.testing.assert_allclose(seen, corner, atol=25 if ending == "jpg" else 0)


def test_grey_is_what_looks_grey_however_it_is_saved(tmp_path):
    """One image in colour makes all of them so; a grey one is the same numbers, saved in colour or not."""
    save(tmp_path / "grey.png", GREY)
    save(tmp_path / "as_colour.png", GREY, "RGB")
    save(tmp_path / "photograph.jpg", GREY, "RGB", quality=90)
    one = read_images(tmp_path, ["grey.png", "as_colour.png", "photograph.jpg"])
    assert one.form.colour == "grey"
    assert one.frame.loc["grey.png"].tolist() == one.frame.loc["as_colour.png"].tolist() == GREY.ravel().tolist()
    save(tmp_path / "nearly.png", np.dstack([GREY // 2, GREY // 2 + 7, GREY // 2]))
    assert read_images(tmp_path, ["nearly.png"]).form.colour == "grey"
    save(tmp_path / "colour.png", TINTED)
    both = read_images(tmp_path, ["grey.png", "colour.png"])
    assert both.form.colour == "rgb"
    assert both.frame.loc["grey.png"].tolist() == np.repeat(GREY.ravel(), 3).tolist()
    asked = read_images(tmp_path, ["grey.png", "colour.png"], colour="grey").frame.loc["colour.png"]
    np.testing.assert_allclose(asked, (TINTED @ [0.299, 0.587, 0.114]).ravel(), atol=0.51)


def test_images_are_brought_to_their_median_size_or_as_much_smaller_as_can_be_learnt_fast(tmp_path):
    for name, size in (("a", (10, 20)), ("b", (12, 30)), ("c", (400, 300))):
        save(tmp_path / f"{name}.png", np.full(size, 77, dtype=np.uint8))
    found = read_images(tmp_path, ["a.png", "b.png", "c.png"])
    assert (found.form.height, found.form.width) == (12, 30)
    assert (found.frame == 77).all(axis=None)
    assert read_images(tmp_path, ["c.png"]).form == ImageForm(height=36, width=27, colour="grey")  # of 1024 pixels
    assert read_images(tmp_path, ["c.png"], 5).form == ImageForm(height=5, width=5, colour="grey")
    assert read_images(tmp_path, ["c.png"], [3, 50], "rgb").form == ImageForm(height=3, width=50, colour="rgb")


def test_an_image_made_smaller_is_the_mean_of_what_was_there(tmp_path):
    """Not some of its pixels, which a fine pattern would make one of; also where JPEG is read small at once."""
    board = np.indices((512, 512)).sum(axis=0) % 2 * 200
    for ending in ("png", "jpg"):
        seen, _ = read(save(tmp_path / f"a.{ending}", board.astype(np.uint8)), size=8)
        np.testing.assert_allclose(seen, 100, atol=4)


def test_a_moving_image_is_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((3, 3), shade, dtype=np.uint8)) for shade in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "a.gif")[0] == 10).all()


def damaged(folder):
    good = save(folder / "good.png", RNG.integers(0, 256, (60, 60), dtype=np.uint8)).read_bytes()
    (folder / "cut.png").write_bytes(good[:300])
    (folder / "text.jpg").write_text("hello", encoding="utf-8")
    (folder / "empty.bmp").touch()
    (folder / "gone.png").symlink_to("nowhere")
    save(folder / "decimal.tif", np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3))
    save(folder / "long.tif", np.full((3, 3), 70_000, dtype=np.int32))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.png", "truncated"),
        ("text.jpg", "no image that Pillow knows"),
        ("empty.bmp", "no image that Pillow knows"),
        ("gone.png", "no such file"),
        ("decimal.tif", "decimal numbers"),
        ("long.tif", "more than 16 bits"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, reason):
    damaged(tmp_path)
    with pytest.raises(ValueError, match=rf"^1 of 2 images in .* cannot be read: {name} \(.*{reason}.*\)"):
        read_images(tmp_path, ["good.png", name], 4)


def test_of_many_that_cannot_be_read_the_first_are_named(tmp_path):
    damaged(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"6 of 7 images .*cut.png .*decimal.tif .*empty.bmp \([^)]*\), …;"):
        read_images(tmp_path, names, 4)


def test_more_than_memory_holds_is_refused_before_it_is_read(tmp_path, monkeypatch):
    photos(tmp_path, count=2)
    seen = []
    monkeypatch.setattr(images, "_MOST_NUMBERS", 95)
    with pytest.raises(ValueError, match="4 images of 24 numbers each"):
        read_folder(tmp_path, on_image=lambda *count: seen.append(count))
    assert not seen
    monkeypatch.setattr(images, "_MOST_NUMBERS", 99)  # enough if they are grey
    with pytest.raises(ValueError, match=r"4 images of 72 numbers each .*; choose a smaller data.image_size, or fewer"):
        read_folder(tmp_path)
    assert len(read_folder(tmp_path, colour="grey").frame) == 4


def test_without_pillow_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    photos(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ValueError, match=r"pip install thalweg\[images\]"):
        load_table(str(tmp_path))


# --- folders -----------------------------------------------------------------------------------------------


def test_each_folder_is_a_class_with_all_that_is_in_it(tmp_path):
    photos(tmp_path, ["dog", "кот"], count=2)
    save(tmp_path / "dog" / "big" / "old" / "é ü.JPEG", TINTED)
    (tmp_path / "linked").symlink_to("dog")
    found = read_folder(tmp_path)
    assert found.frame.index.name == "file"
    assert found.frame["class"].to_dict() == {
        **{f"{name}/{n}.png": name for name in ("dog", "кот") for n in (0, 1)},
        **{f"linked/{rest}": "linked" for rest in ("0.png", "1.png", "big/old/é ü.JPEG")},
        "dog/big/old/é ü.JPEG": "dog",
    }
    assert found.frame.index.is_monotonic_increasing


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_no_folder_is_entered_twice_on_one_way_down(tmp_path):
    """Classes that link to each other, one that links to itself, and a link to a folder round them all."""
    photos(tmp_path / "photos", ["a", "b"], count=3)
    for link, target in (("a/x", "../b"), ("b/y", "../a"), ("a/self", "."), ("b/up", "../..")):
        (tmp_path / "photos" / link).symlink_to(target)
    found = read_folder(tmp_path / "photos").frame.index
    assert found.tolist() == [f"{place}/{n}.png" for place in ("a", "a/x", "b", "b/y") for n in range(3)]


def test_clutter_is_passed_by_and_runs_are_no_classes(tmp_path):
    photos(tmp_path)
    expected = read_folder(tmp_path)
    train_run(configure(tmp_path), tmp_path / "dog" / "run")
    save(tmp_path / "dog" / "run" / "figures" / "flow.png", TINTED)
    for name in (".hidden.png", "._0.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "cat" / name).write_text("nothing", encoding="utf-8")
    for name in (".thumbnails", "__MACOSX", "@eaDir"):
        save(tmp_path / name / "a.png", TINTED)
    (tmp_path / "cat" / "loop").symlink_to("..")
    found = read_folder(tmp_path)
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    assert found.sha256 == expected.sha256


def test_what_is_left_out_is_said(tmp_path):
    photos(tmp_path)
    (tmp_path / "bird").mkdir()
    (tmp_path / "dog" / "a.txt").touch()
    (tmp_path / "bird" / "film.mp4").touch()
    save(tmp_path / "sheet.png", TINTED)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert set(read_folder(tmp_path).frame["class"]) == {"cat", "dog"}
    said = " | ".join(str(warning.message) for warning in heard)
    assert "in no folder of a class" in said
    assert "sheet.png" in said
    assert "2 other files (1 .mp4, 1 .txt)" in said
    assert "no images in them: folders bird" in said


def flat(folder):
    save(folder / "a.png", TINTED)


def split(folder, *parts):
    for part in parts:
        photos(folder / part)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is a folder that holds no images"),
        (lambda folder: (folder / "houses.csv").touch(), "no images.*; name a table in it, such as .*houses.csv"),
        (flat, "holds images, but no folders of them, which would say their classes"),
        (
            lambda folder: (flat(folder), (folder / "t.csv").touch()),
            "or name a table in it, such as .*t.csv, with --targ",
        ),
        (lambda folder: photos(folder, ["cat"]), "holds images of one class, 'cat', and telling apart takes two"),
        (lambda folder: photos(folder / "all"), r"of one class, 'all'.*; for 'cat', 'dog' name .*all$"),
        (lambda folder: split(folder, "train", "test"), "parts of a split: learn from .*train, and judge .*RUN .*test"),
        (lambda folder: split(folder, "Training", "val", "more"), "holds Training, val, which are no classes"),
        (lambda folder: photos(folder, ["train", "valid"]), "parts of a split"),
        (lambda folder: (photos(folder) / "dog" / "a.png").symlink_to("gone"), "1 of 9 .*: dog/a.png .no such file"),
        (
            lambda folder: photos(folder, ["1", "2", "none"]),
            "have numbers for names, but 'none' is none, or that of ano",
        ),
        (
            lambda folder: photos(folder, ["1", "1.0", "2"]),
            "have numbers for names, but '1.0' is none, or that of anot",
        ),
        (
            lambda folder: photos(folder, [" dog", "cat", "cat ", "dog"]),
            "the folders 'cat' and 'cat ' in .* differ by blanks alone; rename one",
        ),
        (lambda folder: photos(folder, ["1", "1 ", "2"]), "the folders '1' and '1 ' in .* differ by blanks alone"),
    ],
)
def test_a_folder_that_does_not_say_classes_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_table(str(tmp_path))


def test_a_train_among_classes_is_one(tmp_path):
    assert set(read_folder(photos(tmp_path, ["train", "plane"])).frame["class"]) == {"train", "plane"}


def test_classes_that_are_numbers_are_classes_however_many_and_numbers_where_that_is_asked_for(tmp_path):
    photos(tmp_path, [str(n) for n in range(25)], count=2, size=(2, 2))
    target = prepare(configure(tmp_path)).schema.target
    assert (target.task, target.classes) == ("classification", list(range(25)))
    assert prepare(configure(tmp_path, "data.task=regression")).task == "regression"


def test_another_target_a_single_image_and_a_bundled_name_are_told_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "iris")
    with pytest.raises(ValueError, match="leave out the target, or name a table with a column 'age'"):
        load_table("./iris", "age")
    with pytest.raises(ValueError, match="is one image; name a folder"):
        load_table("iris/cat/0.png")
    with pytest.warns(UserWarning, match="write ./iris for the folder"):
        assert load_table("iris").target == "species"


# --- runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    photos(folder / "photos", count=8, size=(7, 9))
    train_run(configure(folder / "photos"), folder / "run")
    return folder


def test_new_images_are_seen_as_those_that_were_learnt_from(trained):
    """To the bit, by a run that was loaded: one by one, all of a folder, and in a table that names them."""
    run = Run.load(trained / "run")
    known = run.frame()
    again = run.rows(str(trained / "photos"))
    pd.testing.assert_frame_equal(again, known)
    one = run.rows(str(trained / "photos" / "dog" / "3.png"))
    assert one.index.tolist() == ["3.png"]
    np.testing.assert_array_equal(one.iloc[0], known.loc["dog/3.png"].drop("class"))
    (trained / "some.csv").write_text("photo,x\nphotos/cat/1.png,5\nphotos/dog/2.png,6\n", encoding="utf-8")
    some = run.rows(str(trained / "some.csv"))
    np.testing.assert_array_equal(run.schema.features(some), run.schema.features(known)[[1, 10]])
    assert run.predict(again).index.tolist() == known.index.tolist()


def test_sizes_and_colours_are_kept_for_images_of_others(trained):
    """A large grey photograph is seen small and in colour, as the model has it."""
    run = Run.load(trained / "run")
    assert (run.config.data.image_size, run.config.data.image_colour) == ([7, 9], "rgb")
    save(trained / "large.jpg", np.full((300, 500), 90, dtype=np.uint8))
    frame = run.rows(str(trained / "large.jpg"))
    assert frame.columns.tolist() == ImageForm(height=7, width=9, colour="rgb").columns
    np.testing.assert_allclose(frame, 90, atol=1)


def test_the_saved_configuration_sees_the_same(trained, tmp_path):
    run = Run.load(trained / "run")
    again = prepare(run.config)
    assert again.schema == run.schema
    smaller = prepare(configure(trained / "photos", "data.image_size=3", "data.image_colour=grey"))
    assert smaller.schema.images == ImageForm(height=3, width=3, colour="grey")
    assert smaller.schema.n_inputs == 9 + 1  # and how bright it is


def test_folders_that_are_classes_are_judged_by_and_others_are_not(trained, tmp_path):
    run = Run.load(trained / "run")
    photos(tmp_path / "both", ["dog", "unsorted"], count=3)
    frame = run.rows(str(tmp_path / "both"))
    assert frame["class"].isna().tolist() == [False] * 3 + [True] * 3
    assert run.score(frame).rows == 3
    assert len(run.predict(frame)) == 6
    assert "class" not in run.rows(str(tmp_path / "both" / "dog"))
    with pytest.raises(ValueError, match="does not say what its images are"):
        run.frame(str(tmp_path / "both" / "dog"))


def test_a_folder_that_was_learnt_from_is_known_by_its_content(trained, tmp_path):
    run = Run.load(trained / "run")
    assert run.learnt_from(str(trained / "photos"))
    assert not run.learnt_from(str(photos(tmp_path / "others")))
    os.rename(trained / "photos" / "cat" / "7.png", trained / "photos" / "dog" / "+.png")  # in the same place of all
    try:
        assert not run.learnt_from(str(trained / "photos"))
        with pytest.raises(ValueError, match="photos has changed since"):
            run.frame()
    finally:
        os.rename(trained / "photos" / "dog" / "+.png", trained / "photos" / "cat" / "7.png")


def test_pixels_have_one_scale_and_other_columns_their_own(tmp_path):
    """What is dark in all rows but one would else be the brightest of all."""
    form = ImageForm(height=1, width=3, colour="grey")
    frame = pd.DataFrame(RNG.normal([100, 50, 0], [60, 20, 0.01], (50, 3)), columns=form.columns)
    frame = frame.assign(age=RNG.normal(40, 9, 50), y=list("ab") * 25)
    scales = [column.scale for column in Schema.learn(frame, "y", images=form).columns]
    assert scales[:3] == pytest.approx([np.sqrt(np.mean(frame[form.columns].var(ddof=0)))] * 3)
    assert scales[3] == pytest.approx(frame["age"].std(ddof=0))


def test_a_table_may_name_images_and_what_else_is_known_of_them(tmp_path):
    """Targets that are numbers, or other columns beside the pixels."""
    shades = RNG.integers(0, 250, 30)
    for n, shade in enumerate(shades):
        save(tmp_path / "all" / f"{n}.png", np.full((3, 3), shade, dtype=np.uint8) + np.eye(3, dtype=np.uint8))
    frame = pd.DataFrame(
        {"photo": [f"all/{n}.png" for n in range(30)], "age": np.arange(30.0) % 7, "weight": shades / 2}
    )
    frame.to_csv(tmp_path / "labels.csv", index=False)
    config = configure(tmp_path / "labels.csv", "data.target=weight")
    table = load_table(config.data.source, "weight")
    assert table.frame.index.tolist() == frame["photo"].tolist()
    assert table.frame.columns.tolist() == ["age", "weight", *ImageForm(height=3, width=3, colour="grey").columns]
    assert table.frame["pixel_1_2"].tolist() == shades.tolist()
    run = train_run(config, tmp_path / "run")
    assert run.task == "regression"
    assert run.learnt_from(config.data.source)
    assert len(run.predict(run.rows(config.data.source))) == len(run.frame())
    save(tmp_path / "all" / "3.png", GREY)
    assert not run.learnt_from(config.data.source)
    with pytest.raises(ValueError, match="lacks column 'age'"):
        run.predict(run.rows(str(tmp_path / "all")))
    frame.drop(columns="photo").to_csv(tmp_path / "bare.csv", index=False)
    with pytest.raises(ValueError, match=r"bare\.csv has no column that names images, .* their paths from"):
        run.rows(str(tmp_path / "bare.csv"))
    (tmp_path / "all" / "4.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 30 images in .* cannot be read: all/4.png \(no such file"):
        load_table(config.data.source, "weight")


def test_names_of_images_that_are_not_there_are_text_as_ever(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("photo,x,y\n" + "".join(f"{n}.png,{n},{n % 2}\n" for n in range(30)), encoding="utf-8")
    table = load_table(str(path), "y")
    assert table.images is None
    assert table.frame.columns.tolist() == ["photo", "x", "y"]


def test_a_row_that_names_no_image_and_two_columns_of_images_are_refused(tmp_path):
    save(tmp_path / "a.png", TINTED)
    path = tmp_path / "t.csv"
    path.write_text("left,right,y\na.png,b.png,1\na.png,a.png,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="columns 'left' and 'right' both name images"):
        load_table(str(path), "y")
    path.write_text("photo,y\na.png,1\n,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="column 'photo' names no image in row 2"):
        load_table(str(path), "y")


def test_a_model_of_tables_sees_no_images(trained, tmp_path):
    run = train_run(configure("iris"), tmp_path / "run")
    for source, kind in ((trained / "photos", "a folder"), (trained / "photos" / "cat" / "1.png", "an image")):
        with pytest.raises(ValueError, match=f"is {kind}, and the model was trained with a table"):
            run.rows(str(source))


def test_images_are_read_once_for_a_comparison(tmp_path):
    seen = []
    config = configure(photos(tmp_path / "photos", count=8))
    table = load_table(config.data.source, on_image=lambda *count: seen.append(count))
    assert seen == [(n, 16) for n in range(1, 17)]
    shutil.rmtree(tmp_path / "photos")
    (linear,) = compare(config, [0, 1], contenders=CONTENDERS[-1:], table=table)
    assert len(linear.trials) == 2


def test_a_model_of_mnist_sees_images(tmp_path):
    """Files of the IDX format say what is seen of an image too."""
    for part, count in (("train", 20), ("t10k", 4)):
        shades, labels = np.arange(count * 6) * 2, np.arange(count) % 2
        idx = struct.pack(">4i", 2051, count, 2, 3) + shades.astype(np.uint8).tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx)
        idx = struct.pack(">2i", 2049, count) + labels.astype(np.uint8).tobytes()
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx)
    run = train_run(configure("mnist", f"data.data_dir={tmp_path}"), tmp_path / "run")
    save(tmp_path / "new.png", np.arange(6, 12).reshape(2, 3).astype(np.uint8) * 2)
    frame = Run.load(run.path).rows(str(tmp_path / "new.png"))
    np.testing.assert_array_equal(frame.iloc[0], run.frame().iloc[1].drop("digit"))
