import pytest

from mmseg_plugins.cli.main import main
from mmseg_plugins.cli.progress import ProgressLine
from tests.datasets.raw_releases import cityscapes, context


def call(capsys, *arguments):
    capsys.readouterr()
    code = main(["prepare", *(str(argument) for argument in arguments)])
    return code, capsys.readouterr()


def test_prepare_then_check(tmp_path, capsys):
    cityscapes(tmp_path)
    code, output = call(capsys, "cityscapes", "--root", tmp_path, "--split", "val")
    assert code == 0
    assert "cityscapes val: 1 images" in output.out
    assert "written 1, there already 0" in output.out
    assert "cityscapes val: 1/1" in output.err
    assert "val: the release has 500 images, 1 were found here." in output.out
    code, output = call(capsys, "cityscapes", "--check", "--root", tmp_path)
    assert code == 1
    assert "1 problem; mmseg layout in" in output.out
    assert "1 images, expected 500." in output.out


def test_check_finds_raw_label_maps(tmp_path, capsys):
    folder = cityscapes(tmp_path, splits=("val",))
    raw = folder / "gtFine/val/aachen/aachen_000000_000019_gtFine_labelIds.png"
    raw.rename(raw.with_name(raw.name.replace("labelIds", "labelTrainIds")))
    code, output = call(capsys, "cityscapes", "--check", "--root", tmp_path)
    assert code == 1
    assert "decodes to the class indices [19, 20, 21, 22, 23], but there are 19 classes" in output.out


def test_check_finds_missing_and_differently_sized_maps(tmp_path, capsys):
    folder = context(tmp_path)
    call(capsys, "context59", "--root", tmp_path)
    (folder / "SegmentationClassContext/2008_000001.png").unlink()
    target = folder / "SegmentationClassContext/2008_000002.png"
    from PIL import Image

    Image.new("L", (3, 3)).save(target)
    code, output = call(capsys, "context59", "--check", "--root", tmp_path)
    assert code == 1
    assert "1 of 2 label maps are missing" in output.out
    assert "is (3, 3), but its image 2008_000002.jpg is (20, 30) (H, W)" in output.out


def test_check_of_nothing_says_what_was_looked_for(tmp_path, capsys):
    code, output = call(capsys, "voc21", "--check", "--root", tmp_path)
    assert code == 1
    assert "not found" in output.out
    assert "[mmseg]" in output.out


def test_list_names_every_release(capsys):
    code, output = call(capsys, "--list")
    assert code == 0
    for name in ("ade20k_847", "context459", "coco_object", "voc_aug", "ade20k_150"):
        assert name in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a benchmark"),
        (("context59",), "--root DIR is needed"),
        (("context59", "--root", "nowhere"), "--root nowhere is not a folder"),
        (("nothing", "--root", "."), "unknown preparation 'nothing'"),
        (("ade20k_847", "--root", ".", "--layout", "mmseg"), "is written in these layouts only: detectron2"),
    ],
)
def test_usage_errors_say_what_to_do(capsys, arguments, message):
    code, output = call(capsys, *arguments)
    assert code == 1
    assert message in output.err


def test_progress_off_a_terminal_is_a_plain_line_now_and_then(capsys):
    show = ProgressLine(seconds=1000)
    for done in range(101):
        show("work", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["work: 0/100", "work: 100/100"]
    ProgressLine(seconds=1000)("work", 1, 2)
    assert capsys.readouterr().err == ""
