"""The benchmark of large catalogues with content, on a small one: its data, and what it must find."""

import sys

import numpy as np
import pytest

from benchmarks import big_catalogue as script
from sealr.content.profiles import Profiles

ITEMS, STEPS = 600, 12  # six clusters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("catalogue")
    script.make(made, ITEMS, STEPS, seed=3)
    return made


@pytest.fixture(scope="module")
def found(folder):
    pytest.importorskip("faiss", reason="needs the extra index")
    task = {"folder": str(folder), "items": ITEMS, "users": 200, "seed": 3}
    return {content: task | script.worker(task | {"content": content}) for content in script.CONTENT}


def test_users_stay_in_a_cluster_that_the_profiles_show(folder):
    table = Profiles.load(folder).table("reviews", 1.0, 0).numpy()
    users = np.load(folder / "flat.npy")
    assert users.shape == (STEPS * 256, script.LENGTH) and set(users.ravel()) == set(range(1, ITEMS + 1))
    np.testing.assert_allclose(np.linalg.norm(table[1:], axis=1), 1, rtol=1e-5)
    alike = np.einsum("ij,ij->i", table[users[:, :-1].ravel()], table[users[:, 1:].ravel()]) > 0.5
    assert alike.mean() == pytest.approx(script.STAY + (1 - script.STAY) / 6, abs=0.02)


def test_content_is_used_and_its_placebo_is_not(found):
    hits = {content: np.mean(result["hits"]) for content, result in found.items()}
    assert hits["reviews"] > 0.6  # 100 of 600 items at random: 0.17
    assert max(hits["none"], hits["shuffled"]) < 0.4


def test_figures_of_a_cell(found):
    for result in found.values():
        assert min(result[name] for name in result if name.endswith(("_second", "_seconds", "_ms"))) > 0
        assert 0 < result["recall"] <= 1 and len(result["hits"]) == 200


def test_the_command_prints_a_row_of_each_cell(found, monkeypatch, capsys):
    monkeypatch.setattr(script, "child_of", lambda module, task, threads: found[task["content"]])
    monkeypatch.setattr(sys, "argv", ["script", "--items", "300", "--steps", "2"])
    script.main()
    said = capsys.readouterr().out
    assert "seed 0, 2 steps of 1,792 predictions" in said
    lines = [line for line in said.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert [row[1] for row in rows] == list(script.CONTENT)
    assert {len(row) for row in rows} == {len(header)}
    hits = np.mean(found["reviews"]["hits"])
    assert rows[0][-1].startswith(f"{hits:.4f} (")
