"""Labelling on a Ray cluster: the same labels, also when a worker is killed in the middle."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.cluster import KillOne
from sealr.data.tables import read_table
from sealr.emotion.label import label
from sealr.emotion.labeller import Labeller
from sealr.emotion.ray_engine import ClusterError
from sealr.settings import LabelConfig
from tests.emotion.test_label import reviews


@pytest.fixture(scope="module")
def cluster():
    """A local cluster for this module: starting one takes longer than all else here."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'sealr[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def config(model, **options):
    return LabelConfig(model=str(model), **options)


def test_without_ray_the_message_says_how_to_get_it(toy_labeller, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'sealr\[ray\]', or set label.engine=local"):
        label(reviews(), config(toy_labeller, engine="ray"), tmp_path)


def test_two_ray_workers_one_killed_give_the_labels_of_one_process(cluster, toy_labeller, tmp_path):
    frame = pd.concat([reviews(), reviews().assign(text=lambda f: f["text"] + " again")], ignore_index=True)
    here = label(frame, config(toy_labeller), tmp_path / "local", part_rows=4)
    killer = KillOne()
    on_ray = config(toy_labeller, engine="ray", workers=2)
    there = label(frame, on_ray, tmp_path / "ray", progress=killer, part_rows=4)
    assert [alive for _, alive, _, _ in killer.killed] == [2], "no worker was killed in the middle"
    assert there.rows == here.rows
    a, b = (read_table(tmp_path / n / "labels.parquet", "labels") for n in ("local", "ray"))
    pd.testing.assert_frame_equal(a, b, check_exact=False, rtol=0, atol=1e-6)
    assert a["emotion"].equals(b["emotion"])


def test_a_worker_with_another_labeller_refuses(cluster, toy_labeller, tmp_path):
    settings = config(toy_labeller, engine="ray", workers=1)
    labeller = Labeller.from_config(settings)
    labeller.identity = "another"
    with pytest.raises(ClusterError, match="another labeller"):
        label(reviews(), settings, tmp_path, labeller)
    assert np.isfinite(labeller.predict_texts(["a"])).all()
