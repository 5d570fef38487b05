"""The tables of a folder's pictures: --csv with numbers, --rle with run lengths; written, and read again to resume."""

import csv
from pathlib import Path

from files import printable, write_table

HEADER = ["name", "width", "height", "foreground", "left", "top", "right", "bottom", "dice"]
RUNS_HEADER = ["image_id", "encoded_mask"]


def write_tables(jobs, rows: dict[int, tuple[list, str]], csv_path: Path | None, rle_path: Path | None):
    """Write the tables that were asked for, in the order of the jobs. rows: by a job's index. Raises CannotWrite."""
    done = [(job, *rows[job.index]) for job in jobs if job.index in rows]
    if csv_path:
        write(csv_path, HEADER, [numbers for _, numbers, _ in done])
    if rle_path:
        write(rle_path, RUNS_HEADER, [(image_id(job), runs) for job, _, runs in done])


def image_id(job) -> str:
    return printable(job.source.path.stem)


def write(path, header, rows):
    write_table(path, header, rows, end="\n", wait=False)


def former_rows(jobs, csv_path: Path | None, rle_path: Path | None) -> dict[int, tuple[list, str]]:
    """The rows of earlier tables at these paths, for the jobs that are in each that was asked for, by index."""
    numbers = read(csv_path, HEADER) if csv_path else None
    runs = read(rle_path, RUNS_HEADER) if rle_path else None
    rows = {}
    for job in jobs:
        name = printable(job.source.place)
        own_numbers = [name] if numbers is None else numbers.get(name)
        own_runs = [name, ""] if runs is None else runs.get(image_id(job))
        if own_numbers and own_runs:
            rows[job.index] = own_numbers, own_runs[1]
    return rows


def read(path, header):
    """The rows of a table by their first word, those alone that are whole and named once."""
    csv.field_size_limit(2**31 - 1)  # run lengths of a large mask are long
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    if not lines or lines[0] != header:
        return {}
    names = [line[0] for line in lines[1:] if line]
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    return {line[0]: line for line in lines[1:] if len(line) == len(header) and line[0] not in repeated}
