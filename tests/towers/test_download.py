import hashlib
import re
import socket

import pytest

from mmseg_plugins.towers import download as module
from mmseg_plugins.towers.download import download, fetch_url, file_sha256, home_folder, is_offline
from tests.towers.local_server import serve

CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


@pytest.fixture
def server():
    with serve() as (address, served):
        served.files["/a/weights.pth"] = CONTENT
        yield address, served


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_arrives_whole_under_its_name(server, tmp_path):
    address, _ = server
    target = download(f"{address}/a/weights.pth", tmp_path / "new" / "w.pth", progress=False)
    assert target.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["w.pth"]
    assert file_sha256(target) == hashlib.sha256(CONTENT).hexdigest()


def test_what_broke_off_is_continued(server, tmp_path):
    address, served = server
    served.break_after["/a/weights.pth"] = 30_000
    target = download(f"{address}/a/weights.pth", tmp_path / "w.pth", progress=False)
    assert target.read_bytes() == CONTENT
    assert [request[2] for request in served.requests] == [None, "bytes=30000-"]


def test_a_later_call_continues_what_an_earlier_one_left(server, tmp_path, monkeypatch):
    address, served = server
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    served.break_after["/a/weights.pth"] = 50_000
    with pytest.raises(OSError, match=r"50000 of 102400 bytes.*again to continue"):
        download(f"{address}/a/weights.pth", tmp_path / "w.pth", progress=False)
    assert not (tmp_path / "w.pth").exists()
    assert (tmp_path / "w.pth.part").stat().st_size == 50_000
    assert download(f"{address}/a/weights.pth", tmp_path / "w.pth", progress=False).read_bytes() == CONTENT
    assert names(tmp_path) == ["w.pth"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, tmp_path, monkeypatch):
    address, served = server
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    served.break_after["/a/weights.pth"] = 50_000
    with pytest.raises(OSError, match="again to continue"):
        download(f"{address}/a/weights.pth", tmp_path / "w.pth", progress=False)
    served.files["/a/weights.pth"] = CONTENT[::-1]
    assert download(f"{address}/a/weights.pth", tmp_path / "w.pth", progress=False).read_bytes() == CONTENT[::-1]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    address, _ = server
    with pytest.raises(ValueError, match=r"has sha256 \w{64}, expected 00ff. It was not kept"):
        download(f"{address}/a/weights.pth", tmp_path / "w.pth", sha256="00ff", progress=False)
    assert names(tmp_path) == []
    good = hashlib.sha256(CONTENT).hexdigest()[:8]
    assert download(f"{address}/a/weights.pth", tmp_path / "w.pth", sha256=good, progress=False).is_file()


def test_a_missing_page_is_named(server, tmp_path):
    address, served = server
    with pytest.raises(OSError, match=r"/none\.pth answers 404"):
        download(f"{address}/none.pth", tmp_path / "w.pth", progress=False)
    assert len(served.requests) == 1


def test_an_unreachable_server_is_named(tmp_path):
    with socket.socket() as taken:  # a port that nobody listens at, and that nobody else can get meanwhile
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        with pytest.raises(OSError, match=f"Fetching {re.escape(address)} failed"):
            download(address, tmp_path / "w.pth", progress=False)


def test_urls_are_fetched_once_into_folders_of_their_own(server):
    address, served = server
    served.files["/b/weights.pth"] = b"other"
    first = fetch_url(f"{address}/a/weights.pth")
    second = fetch_url(f"{address}/b/weights.pth?download=1")
    assert first.name == second.name == "weights.pth"
    assert second.read_bytes() == b"other"
    assert home_folder() in first.parents
    count = len(served.requests)
    assert fetch_url(f"{address}/a/weights.pth") == first
    assert len(served.requests) == count


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_says_what_to_fetch_and_where_to_put_it(server, monkeypatch, name):
    address, served = server
    monkeypatch.setenv(name, "1")
    assert is_offline()
    with pytest.raises(FileNotFoundError, match=rf"Fetch {address}/a/weights\.pth elsewhere and put it at .*pth"):
        fetch_url(f"{address}/a/weights.pth")
    assert served.requests == []


def test_progress_goes_to_stderr(server, tmp_path, capsys):
    address, _ = server
    download(f"{address}/a/weights.pth", tmp_path / "w.pth")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "w.pth" in captured.err
