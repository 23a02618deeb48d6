import numpy as np
import pytest
from PIL import Image

from mmseg_plugins.datasets.label_files import decode_labels, label_depth, read_label_map, save_image, write_label_map


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("largest", "depth"), [(149, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_written_labels_come_back(tmp_path, suffix, largest, depth):
    labels = np.array([[0, 1, 2], [largest - 1, largest, 7]])
    write_label_map(tmp_path / f"a{suffix}", labels, largest=largest)
    got = read_label_map(tmp_path / f"a{suffix}")
    assert got.dtype == depth
    assert np.array_equal(got, labels)


def test_palette_images_give_the_index(tmp_path):
    image = Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8), mode="P")
    image.putpalette([7] * 768)
    image.save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").tolist() == [[0, 3], [255, 1]]


def test_depth_is_the_data_sets_and_not_the_images(tmp_path):
    write_label_map(tmp_path / "a.png", np.zeros((2, 2), int), largest=846)
    assert read_label_map(tmp_path / "a.png").dtype == np.uint16


@pytest.mark.parametrize(("labels", "largest"), [([[-1]], None), ([[70000]], None), ([[150]], 149)])
def test_values_that_do_not_fit_are_refused(tmp_path, labels, largest):
    with pytest.raises(ValueError, match="expected 0"):
        write_label_map(tmp_path / "a.png", np.array(labels), largest=largest)
    assert not list(tmp_path.iterdir())


def test_label_beyond_16_bits_has_no_depth():
    with pytest.raises(ValueError, match="16-bit"):
        label_depth(65536)


def test_colour_images_are_refused_by_name(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"colour.png has 3 channels"):
        read_label_map(tmp_path / "colour.png")


def test_broken_and_missing_files_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(ValueError, match=r"broken.png cannot be read"):
        read_label_map(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match=r"gone.png does not exist"):
        read_label_map(tmp_path / "gone.png")


def test_truncated_file_is_an_error_not_half_a_map(tmp_path):
    path = tmp_path / "a.png"
    write_label_map(path, np.random.default_rng(0).integers(0, 255, (64, 64)), largest=255)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        read_label_map(path)


def test_failed_write_leaves_the_old_file(tmp_path):
    class Unwritable:
        def save(self, path, **options):
            path.write_bytes(b"half")
            raise OSError("disk full")

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        save_image(path, Unwritable())
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def reduced(value, ignore):
    return ignore if value in (0, ignore) else value - 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ignore", [255, 65535])
def test_zero_reduction_never_wraps(dtype, ignore):
    stored = np.arange(np.iinfo(dtype).max + 1).astype(dtype)[None]
    got = decode_labels(stored, rule="reduce_zero", ignore_index=ignore)
    assert got[0].tolist() == [reduced(value, ignore) for value in stored[0].tolist()]


def test_background_rules_are_inverse_to_each_other():
    as_stored = np.arange(256, dtype=np.uint8)[None]
    reduced_map = decode_labels(as_stored, rule="reduce_zero")
    back = decode_labels(reduced_map, rule="add_background")
    assert back[0, :255].tolist() == list(range(255))
    assert back[0, 255] == 0  # the border is lost in that store: it became background


def test_background_moves_behind_the_classes():
    got = decode_labels(np.array([[0, 1, 20, 255]], np.uint8), rule="background_last", num_classes=21)
    assert got.tolist() == [[20, 0, 19, 255]]
    with pytest.raises(ValueError, match="num_classes"):
        decode_labels(np.zeros((1, 1), np.uint8), rule="background_last")


def test_unknown_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="as_stored, reduce_zero"):
        decode_labels(np.zeros((1, 1), np.uint8), rule="zero")
