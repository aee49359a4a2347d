import logging
import time

from sealr.study import finished, open_study, search, summary


def test_a_search_ends_when_its_time_is_over(tmp_path, caplog):
    def slow(trial):
        time.sleep(0.05)
        return trial.suggest_float("x", 0, 1)

    with caplog.at_level(logging.INFO):
        study = search(open_study(tmp_path, "s", 0, {"x": 0.25}), slow, trials=10**6, hours=0.2 / 3600)
    done = finished(study)
    assert 1 <= len(done) < 100 and done[0].params == {"x": 0.25}
    assert "has used its" in caplog.text
    more = search(open_study(tmp_path, "s", 0, {"x": 0.25}), slow, trials=len(done) + 2)  # goes on with what is there
    assert len(finished(more)) == len(done) + 2 and summary(more).count("\n") == len(done) + 4
