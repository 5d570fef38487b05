"""The tables of a folder's pictures: --csv with numbers, --rle with run lengths; written, and read again to resume."""

import csv
import os
from collections import Counter
from pathlib import Path

from files import CannotWrite, check_can_write, make_folder, write_table
from utils import UserError

HEADER = ["name", "width", "height", "foreground", "left", "top", "right", "bottom", "dice"]
RUNS_HEADER = ["image_id", "encoded_mask"]


def write_tables(jobs, rows: dict[int, tuple[list, str]], csv_path: Path | None, rle_path: Path | None):
    """Write the tables that were asked for, in the order of the jobs. rows: by a job's index.

    Returns a line for each that cannot be written.
    """
    done = [(job, *rows[job.index]) for job in jobs if job.index in rows]
    lost = []
    for path, header, lines in (
        (csv_path, HEADER, [numbers for _, numbers, _ in done]),
        (rle_path, RUNS_HEADER, [(job.image_id, runs) for job, _, runs in done]),
    ):
        try:
            if path:
                write(path, header, lines)
        except CannotWrite as error:
            lost.append(str(error))
    return lost


def check_tables(csv_path: Path | None, rle_path: Path | None):
    """Make the tables' folders. Raises UserError for a path that is not a table's, or cannot be written."""
    for flag, path, header in (("--csv", csv_path, HEADER), ("--rle", rle_path, RUNS_HEADER)):
        if not path:
            continue
        make_folder(path.parent, flag)
        if path.is_dir():
            raise UserError(f"{flag} {path} is a folder; name a file")
        if os.path.lexists(path) and not (path.is_file() and begins(path, header)):
            raise UserError(f"{flag} {path} is there, and is no such table of inference.py; name another file")
        check_can_write(path)
    if csv_path and rle_path and os.path.realpath(csv_path) == os.path.realpath(rle_path):
        raise UserError(f"--csv and --rle are both {csv_path}; name two files")


def begins(path, header):
    """Whether a file is empty, or begins as a table of ours does."""
    with open(path, "rb") as file:
        line = file.readline(1000)
    return not line or line.decode(errors="replace").strip() == ",".join(header)


def write(path, header, rows):
    write_table(path, header, rows, end="\n", wait=False)


def former_rows(jobs, csv_path: Path | None, rle_path: Path | None) -> dict[int, tuple[list, str]]:
    """The rows of earlier tables at these paths, for the jobs that are in each that was asked for, by index."""
    numbers = read(csv_path, HEADER) if csv_path else None
    runs = read(rle_path, RUNS_HEADER) if rle_path else None
    rows = {}
    for job in jobs:
        own_numbers = [job.name] if numbers is None else numbers.get(job.name)
        own_runs = [job.image_id, ""] if runs is None else runs.get(job.image_id)
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
    times = Counter(line[0] for line in lines[1:] if line)
    return {line[0]: line for line in lines[1:] if len(line) == len(header) and times[line[0]] == 1}
