import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.vocabulary.cache import TextCache, cache_folder, cache_key


def unit_rows(seed=0, rows=5, width=8):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


KEY = cache_key("weights", ["cat"], ["a {}"])


def test_what_is_stored_is_loaded(tmp_path):
    cache = TextCache(tmp_path / "deep" / "er")
    assert cache.load(KEY, rows=5) is None
    cache.store(KEY, unit_rows())
    assert torch.equal(cache.load(KEY, rows=5), unit_rows())
    assert [path.name for path in cache.folder.iterdir()] == [f"{KEY}.safetensors"]


def test_the_key_holds_all_that_decides_the_rows():
    keys = [
        KEY,
        cache_key("other weights", ["cat"], ["a {}"]),
        cache_key("weights", ["dog"], ["a {}"]),
        cache_key("weights", ["cat"], ["the {}"]),
        cache_key("weights", ["cat", "dog"], ["a {}"]),
        cache_key("weights", ["dog", "cat"], ["a {}"]),
        cache_key("weights", ["cat"], ["a {}"], normalize_each=False),
        cache_key("weights", ["cat, dog"], ["a {}"]),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key("weights", ["cat"], ["a {}"]) == KEY


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _overwrite(path):
    path.write_bytes(b"no tensors here")


def _empty(path):
    path.write_bytes(b"")


def _scale(path):
    TextCache(path.parent).store(KEY, 2 * unit_rows())


def _not_finite(path):
    TextCache(path.parent).store(KEY, unit_rows() * float("nan"))


def _other_rows(path):
    TextCache(path.parent).store(KEY, unit_rows(rows=4))


@pytest.mark.parametrize("damage", [_cut, _overwrite, _empty, _scale, _not_finite, _other_rows])
def test_a_damaged_entry_counts_as_missing_and_is_warned_about(tmp_path, caplog, damage):
    cache = TextCache(tmp_path)
    cache.store(KEY, unit_rows())
    damage(cache.path(KEY))
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY, rows=5) is None
    assert "are damaged" in caplog.text
    cache.store(KEY, unit_rows())
    assert torch.equal(cache.load(KEY, rows=5), unit_rows())


def test_a_folder_that_cannot_be_written_to_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        TextCache(tmp_path / "file").store(KEY, unit_rows())
    assert "Set MMSEG_PLUGINS_CACHE" in caplog.text


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSEG_PLUGINS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == TextCache().folder == tmp_path / "own" / "text"
    monkeypatch.delenv("MMSEG_PLUGINS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mmseg_plugins" / "text"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mmseg_plugins" / "text"


def test_writers_may_share_a_folder(tmp_path):
    wanted = [unit_rows(seed) for seed in range(4)]

    def write_often(rows):
        cache = TextCache(tmp_path)
        for _ in range(20):
            cache.store(KEY, rows)
            loaded = cache.load(KEY, rows=5)
            assert any(torch.equal(loaded, other) for other in wanted)  # whole, whoever wrote it

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, wanted))
    assert len(list(tmp_path.iterdir())) == 1
