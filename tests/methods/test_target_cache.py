"""What a teacher said, on disk: interrupted, damaged, full, and not to be written to."""

import pytest
import torch
from mmseg.structures import SegDataSample

from mmseg_plugins.methods.clip_dinoiser.target_cache import TargetCache, cached_targets
from mmseg_plugins.methods.clip_dinoiser.teachers import Targets, Teacher
from tests.methods.clip_dinoiser_models import TEACHER, build

GRID = (2, 3)


class Listening(Teacher):
    """Answers by the image's own pixels, and remembers how many images it was asked about."""

    def __init__(self, fails_behind=None):
        super().__init__()
        self.asked, self.fails_behind = 0, fails_behind

    def targets(self, images, grid, samples):
        assert len(samples) == len(images)
        self.asked += len(images)
        if self.fails_behind is not None and self.asked > self.fails_behind:
            raise KeyboardInterrupt
        bits = images.flatten(1)[:, : grid[0] * grid[1]] > 0.5
        together = (bits[:, :, None] == bits[:, None]).unflatten(2, grid)
        return Targets(together, bits.unflatten(1, grid)[:, None])

    def fingerprint(self):
        return "listening"


@pytest.fixture
def images():
    return torch.rand(6, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def ask(teacher, folder, images, **options):
    cache = TargetCache(folder, **options)
    return cached_targets(teacher, cache, images, GRID, [SegDataSample() for _ in images]), cache


def same(one, other):
    return torch.equal(one.belongs_together, other.belongs_together) and torch.equal(
        one.is_foreground, other.is_foreground
    )


def test_what_was_answered_before_an_interruption_is_not_asked_again(tmp_path, images):
    interrupted = Listening(fails_behind=4)
    ask(interrupted, tmp_path, images[:4])
    with pytest.raises(KeyboardInterrupt):
        ask(interrupted, tmp_path, images[4:])
    teacher = Listening()
    found, cache = ask(teacher, tmp_path, images.flip(0))
    assert (teacher.asked, cache.hits, cache.misses) == (2, 4, 2)
    assert same(found, Listening().targets(images.flip(0), GRID, images))
    assert ask(teacher, tmp_path, images)[1].hits == 6


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", None], ids=["empty", "other", "cut off"])
def test_damaged_answers_are_asked_for_and_mended(tmp_path, images, damage, caplog):
    whole, _ = ask(Listening(), tmp_path, images)
    for path in sorted(tmp_path.glob("*/*.safetensors"))[:3]:
        path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    teacher = Listening()
    assert same(ask(teacher, tmp_path, images)[0], whole)
    assert teacher.asked == 3
    assert "asking the teacher again" in caplog.text
    assert ask(teacher, tmp_path, images)[1].hits == 6


def test_a_full_or_forbidden_folder_never_stops_a_run(tmp_path, images, caplog):
    one = ask(Listening(), tmp_path / "one", images[:1])[1].folder
    size = sum(path.stat().st_size for path in one.glob("*/*"))
    whole, _ = ask(Listening(), tmp_path / "full", images, limit=size)
    assert len(list((tmp_path / "full").glob("*/*"))) < 6
    assert "further targets are not kept" in caplog.text
    (tmp_path / "file").touch()
    assert same(ask(Listening(), tmp_path / "file", images)[0], whole)
    assert "cannot write to" in caplog.text


def test_answers_of_a_teacher_and_text_embeddings_lie_in_folders_of_their_own(tmp_path):
    said, words = tmp_path / "said", tmp_path / "words"
    network = build(teacher=TEACHER, teacher_cache=str(said), text_cache=str(words))
    network.predict(torch.randn(1, 3, 32, 32))
    assert [path for path in words.rglob("*") if path.is_file()]
    assert not said.exists()
    network.train().loss(torch.randn(2, 3, 32, 32), [SegDataSample(), SegDataSample()])
    assert len(list(said.glob("*/*.safetensors"))) == 2
