import json
import os
import subprocess
import sys

import pytest
import torch

from mmseg_plugins.towers import weights as module
from mmseg_plugins.towers.files import write_safetensors
from mmseg_plugins.towers.weights import WeightsRecord, cached_path, find_record, list_records, resolve
from tests.towers.local_server import serve


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_open_clips_table_is_there_with_statistics_and_activation():
    record = find_record("ViT-B-16/openai")
    assert record.repo == "timm/vit_base_patch16_clip_224.openai"
    assert record.quick_gelu
    assert record.licence == "MIT"
    assert record.mean == pytest.approx((122.771, 116.746, 104.094), abs=1e-3)
    assert find_record("ViT-B-16-SigLIP/webli").mean == pytest.approx((127.5, 127.5, 127.5))
    assert find_record("ViT-B-16/laion2b_s34b_b88k").quick_gelu is None
    assert record.files[0].endswith(".safetensors")


def test_records_have_a_page_a_file_and_a_name_of_their_own():
    records = list_records()
    assert len({record.name for record in records}) == len(records) > 150
    for record in records:
        assert record.file_names
        assert record.source_page.startswith("http")
        assert record.what


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-16/opanai", "Its tags: openai"),
        ("dino_vit16", "Did you mean 'dino_vits16', 'dino_vitb16'"),
        ("nothing like it at all", "mmseg-plugins models"),
    ],
)
def test_unknown_names_get_help(name, message):
    with pytest.raises(KeyError, match=message):
        find_record(name)


def test_offline_says_what_to_fetch_from_where_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError) as caught:
        resolve("ViT-L-14-336/openai")
    message = str(caught.value)
    assert "open_clip_model.safetensors" in message
    assert "/timm/vit_large_patch14_clip_336.openai" in message
    folder = tmp_path / "home" / "weights" / "ViT-L-14-336--openai"
    assert f"put it into {folder}/" in message
    folder.mkdir(parents=True)
    path = write_safetensors(folder / "open_clip_model.safetensors", {"a": torch.zeros(1)})
    assert resolve("ViT-L-14-336/openai") == path
    assert cached_path(find_record("ViT-L-14-336/openai")) == path


def test_files_with_an_address_are_fetched_and_checked():
    with serve() as (address, served):
        served.files["/x/weights.pth"] = b"content"
        record = WeightsRecord(name="x", url=f"{address}/x/weights.pth", sha256=served.etag("/x/weights.pth"))
        path = resolve(record)
        assert path.read_bytes() == b"content"
        assert resolve(record) == path
        assert len(served.requests) == 1
        path.write_bytes(b"changed")
        with pytest.raises(ValueError, match=r"damaged or another file. Delete it"):
            resolve(record)
        missing = WeightsRecord(name="y", url=f"{address}/none.pth", page="https://example.org/y")
        with pytest.raises(FileNotFoundError, match=r"answers 404.*Fetch none\.pth from https://example\.org/y"):
            resolve(missing)


def test_a_record_without_an_address_can_only_be_put_there_by_hand():
    record = WeightsRecord(name="z", files=("z.pth",), page="https://example.org/z")
    with pytest.raises(FileNotFoundError, match=r"no address.*Fetch z\.pth from https://example\.org/z"):
        resolve(record)


def test_a_checked_file_is_not_hashed_again(tmp_path, monkeypatch):
    from mmseg_plugins.towers.download import file_sha256

    path = tmp_path / "home" / "weights" / "x" / "x.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    record = WeightsRecord(name="x", files=("x.pth",), sha256=file_sha256(path))
    resolve(record)
    monkeypatch.setattr(module, "file_sha256", lambda _: pytest.fail("hashed again"))
    resolve(record)


def test_records_with_unknown_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown fields license"):
        module._from_plain({"name": "x", "license": "MIT"}, tmp_path / "x.json")


_HUB_SCRIPT = """
import json, sys
from mmseg_plugins.towers.weights import WeightsRecord, resolve
record = WeightsRecord(name="hub_test", repo="someone/model", files=("model.safetensors", "weights.bin"))
try:
    path = resolve(record)
    print(json.dumps({"content": path.read_bytes().decode(), "path": str(path)}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def ask_hub(tmp_path, **environment):
    """Resolve in a process of its own: the hub's client reads its address when it is imported."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    own = {"HF_HOME": str(tmp_path / "hf"), "MMSEG_PLUGINS_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _HUB_SCRIPT], env=clean | own | environment, capture_output=True, text=True, timeout=120
    )
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_the_hub_is_asked_at_its_mirror_and_its_checksum_is_held(tmp_path):
    with serve() as (address, served):
        path = "/someone/model/resolve/main/weights.bin"
        served.files[path] = b"hub content"
        found = ask_hub(tmp_path, HF_ENDPOINT=address)
        assert found["content"] == "hub content"
        assert str(tmp_path / "hf") in found["path"]
        asked = {request[1] for request in served.requests}
        assert {path, path.replace("weights.bin", "model.safetensors")} <= asked
        assert ask_hub(tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE="1") == found
        blob = os.path.realpath(found["path"])
        os.chmod(blob, 0o644)
        with open(blob, "ab") as stream:
            stream.write(b"!")
        damaged = ask_hub(tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
        assert damaged["error"] == "ValueError"
        assert "expected " + served.etag(path) in damaged["message"]


def test_a_hub_without_the_file_or_out_of_reach_is_explained(tmp_path):
    with serve() as (address, _):
        missing = ask_hub(tmp_path, HF_ENDPOINT=address)
    assert missing["error"] == "FileNotFoundError"
    assert f"{address}/someone/model has none of model.safetensors, weights.bin" in missing["message"]
    gone = ask_hub(tmp_path, HF_ENDPOINT=address)
    assert gone["error"] == "FileNotFoundError"
    assert f"no connection to {address}/someone/model" in gone["message"]
    assert "put it into" in gone["message"]
