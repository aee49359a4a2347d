from datetime import UTC, datetime

import pytest

from sealr.data.sources.dates import DateError, Timestamps, check_pattern, guess

NOV_5 = 1_541_376_000  # 2018-11-05 UTC


def at(*arguments):
    return int(datetime(*arguments, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2018-11-05", NOV_5),
        ("2018-11-05T01:00:00+01:00", NOV_5),
        ("Nov 5, 2018", NOV_5),
        ("November 10, 2018", at(2018, 11, 10)),
        ("5 November 2018 13:45", at(2018, 11, 5, 13, 45)),
        ("Friday, November 2, 2018 at 3:04pm", at(2018, 11, 2, 15, 4)),
        ("Wed Jul 27 11:31:03 -0700 2016", at(2016, 7, 27, 18, 31, 3)),
        ("Wed, 27 Jul 2016 11:31:03 GMT", at(2016, 7, 27, 11, 31, 3)),
        ("05.11.2018", NOV_5),
        ("5.11.2018 08:09:10", at(2018, 11, 5, 8, 9, 10)),
        ("2018/11/05 00:00:00.5", NOV_5),
        ("25/12/2018", at(2018, 12, 25)),
        ("12/25/2018", at(2018, 12, 25)),
        ("5-Nov-18", NOV_5),
        ("  Nov   5, 2018 ", NOV_5),
        ("1541376000", "1541376000"),
        (1541376000, 1541376000),
        (datetime(2018, 11, 5), NOV_5),
        (None, None),
        ("", ""),
    ],
)
def test_dates_by_sight(value, seconds):
    assert Timestamps("s", "auto", lambda: [value])(value) == (seconds, "")


@pytest.mark.parametrize(
    "value", ["yesterday", "cb8fd6dd82a", "31/02/2018", "1.2.3.4", "12 drummers", "Sept 5", "3:15", "5/2018"]
)
def test_what_is_no_date(value):
    assert (
        Timestamps("s", "auto", lambda: [value])(value)[1] == "timestamp is not of the form iso: see data.date_format"
    )


def test_other_dates_of_a_file_tell_day_and_month_apart():
    assert guess(["03/04/2018"] * 50 + ["13/04/2018"]) == ("%d/%m/%Y",)
    assert guess(["3/4/2018", "4/13/2018"]) == ("%m/%d/%Y",)
    assert guess(["03/04/2018"] * 20_000 + ["04/13/2018"]) == ("%m/%d/%Y",)  # read on until it is clear


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["03/04/2018"], '3 April 2018 or 4 March 2018: set data.date_format to "%d/%m/%Y" or "%m/%d/%Y"'),
        (["03/04/05"], "03/04/05 can be 3 April 2005 or 4 March 2005 or 5 April 2003: set data.date_format to"),
        (["25/12/18"], "25 December 2018 or 18 December 2025"),
        (["13/04/2018", "04/13/2018"], r"contradict each other: 13/04/2018 \(%d/%m/%Y\) and 04/13/2018"),
        (["2018-01-01"] * 50 + ["03/04/2018"], "3 April 2018 or 4 March 2018"),
    ],
)
def test_dates_with_two_readings_are_an_error_that_shows_both(values, message):
    with pytest.raises(DateError, match=message):
        guess(values)


def test_a_few_odd_dates_do_not_stop_the_others():
    assert guess(["2018-01-01"] * 300 + ["03/04/05"]) == ()
    assert guess(["13/04/2018"] * 300 + ["04/13/2018"]) == ("%d/%m/%Y",)
    assert guess(["Nov 5, 2018", "May 6, 2018", "June 7, 2018", "soon"]) == ("%b %d, %Y", "%B %d, %Y")


def test_given_formats():
    read = Timestamps("s", ("%d/%m/%y", "%Y%m%d", "iso"), list)
    assert read("05/11/18") == read("20181105") == read(20181105) == read("2018-11-05T00:00") == (NOV_5, "")
    assert read("Nov 5, 2018")[1] == "timestamp is not of the form %d/%m/%y or %Y%m%d or iso: see data.date_format"
    assert Timestamps("s", "%Y", list)(2018.0) == (at(2018, 1, 1), "")
    assert Timestamps("ms", "auto", list)("1541376000999") == (NOV_5, "")


@pytest.mark.parametrize("pattern", ["%Q", "dd.mm.yyyy", "%H:%M", "%d/%m", "%d %"])
def test_a_wrong_pattern(pattern):
    with pytest.raises(DateError, match='is neither auto, iso nor a pattern such as "%d.%m.%Y %H:%M"'):
        check_pattern(pattern)
