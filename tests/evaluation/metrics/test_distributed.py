"""Evaluation spread over processes gives the figures of one process, bit by bit.

Run as a script, this file starts the processes itself (by fork, from a fresh interpreter, so that torch is imported
only once) and writes the figures of each process as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAMPLES = 5


def build_metrics():
    from mmseg_plugins.evaluation.metrics import (
        BoundaryIoUMetric,
        InstanceAPMetric,
        OpenVocabularyIoUMetric,
        PanopticQualityMetric,
    )
    from tests.evaluation.metrics.samples import META, instance_sample, panoptic_sample, semantic_sample

    pairs = [
        (OpenVocabularyIoUMetric(iou_metrics=["mIoU", "mDice", "mFscore"], unseen=[1, 2]), semantic_sample),
        (BoundaryIoUMetric(), semantic_sample),
        (PanopticQualityMetric(boundary=True), panoptic_sample),
        (InstanceAPMetric(boundary=True), instance_sample),
    ]
    for metric, _ in pairs:
        metric.dataset_meta = META
    return pairs


def evaluate_share(rank, world, round_up):
    """Evaluate this process's share, split as mmengine's sampler splits it."""
    from mmengine.dataset import DefaultSampler

    figures = {}
    for metric, make in build_metrics():
        sampler = DefaultSampler(range(SAMPLES), shuffle=False, round_up=round_up)
        for number in sampler:
            metric.process({}, [make(number)])
        try:
            figures[type(metric).__name__] = metric.evaluate(SAMPLES)
        except ValueError as error:
            figures[type(metric).__name__] = str(error)
    return figures


def run_process(rank, world, meeting, round_up, target):
    import torch

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    Path(f"{target}.{rank}").write_text(json.dumps(evaluate_share(rank, world, round_up)))
    torch.distributed.destroy_process_group()


def main(folder):
    """Run with one, two and three processes, and with a sampler that rounds up; write the figures of every process."""
    import multiprocessing

    import mmseg_plugins.evaluation.metrics  # noqa: F401  (imported once, before the processes are forked)

    context = multiprocessing.get_context("fork")
    for world, round_up in ((1, False), (2, False), (3, False), (2, True)):
        target = Path(folder) / f"{world}{'_rounded' if round_up else ''}"
        with tempfile.TemporaryDirectory() as place:
            meeting = f"file://{place}/meeting"  # no port that another program could take meanwhile
            processes = [
                context.Process(target=run_process, args=(rank, world, meeting, round_up, target))
                for rank in range(world)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
                assert process.exitcode == 0


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")
    folder = tmp_path_factory.mktemp("figures")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(folder)]
    outcome = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize("world", [2, 3])
def test_figures_equal_those_of_one_process_exactly_on_every_process(figures, world):
    for rank in range(world):
        for name, want in figures["1.0"].items():
            assert isinstance(want, dict)
            assert figures[f"{world}.{rank}"][name] == want, f"{name} on process {rank} of {world}"


def test_a_sampler_that_rounds_up_is_refused_on_every_process(figures):
    for rank in range(2):
        for name in ("OpenVocabularyIoUMetric", "BoundaryIoUMetric", "PanopticQualityMetric"):
            message = figures[f"2_rounded.{rank}"][name]
            assert "counted 6 samples but the data set has 5" in message
            assert "round_up=False" in message


def test_gathered_detections_of_a_rounding_sampler_are_cut_by_mmengine(figures):
    for rank in range(2):
        assert figures[f"2_rounded.{rank}"]["InstanceAPMetric"] == figures["1.0"]["InstanceAPMetric"]


if __name__ == "__main__":
    main(sys.argv[1])
