"""The report of benchmarks/speed.py, on figures made up by hand."""

from benchmarks.speed_report import report

PROFILE = {
    "parts": {"data": 1.0, "encoder forward": 1.0, "loss with its gradients": 6.0, "encoder backward": 2.0},
    "flops": {"loss": 3e11, "encoder": 3e11},
    "gflops": 100.0,
}


def measured(system, seconds, users, ranks, share=1.0):
    found = {"system": system, "torch": "2", "threads": 1, "parameters": 10, "predictions": 20, "timed_share": share}
    found |= {"seconds_epoch": seconds, "predictions_second": 20 / seconds, "users_second": users}
    found |= {"training_peak_mb": 500, "peak_mb": 500, "epochs": 3, "valid": 0.25, "seconds_training": 3 * seconds}
    return found | {"ranks": ranks, "test": {"hit@10": sum(rank <= 10 for rank in ranks.values()) / len(ranks)}}


def test_the_report_of_three_systems():
    ours = measured("SEALR", 2.0, 300, {"a": 1, "b": 2})
    slow = measured("Slow", 20.0, 100, {"b": 11, "a": 11}, share=0.1)
    same = measured("Same", 2.0, 300, {"a": 1, "b": 2})
    text = report({"SEALR": [ours], "Slow": [slow], "Same": [same]}, PROFILE, 0.5)
    rows = {row[0]: row[1:] for row in ([c.strip() for c in line.strip("|").split("|")] for line in text.splitlines())}
    assert rows["seconds per epoch"] == ["2.0", "20.0", "2.0", "10.0", "1.0"]
    assert rows["predictions per second"][-2:] == ["10.0", "1.0"], "a ratio above 1 means that ours is better"
    assert rows["users ranked per second"][-2:] == ["3.0", "1.0"]
    assert rows["Slow"] == ["3", "60", "0.2500", "0.0000"]
    assert "An epoch of Slow is extrapolated from 10% of it." in text and "Same is extra" not in text
    assert "HR@10, SEALR minus Slow: +1.0000 (+1.0000 to +1.0000), 1 seeds, 2 users" in text, (
        "users are matched by name"
    )
    assert "HR@10, SEALR minus Same: +0.0000 (+0.0000 to +0.0000)" in text
    assert "they take 6.0 s; the profiled epoch took 10.0 s, 1.7 times that" in text
    assert rows["loss with its gradients"] == ["6.0", "60%", "3.0"] and rows["data"] == ["1.0", "10%", "-"]
