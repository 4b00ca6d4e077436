"""Files as sources of rows: formats, columns, missing values, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from gradhess._regression import fit
from gradhess.cli import npy_table
from gradhess.cli.npy_table import NpyTable
from gradhess.cli.source import TableSource
from gradhess.cli.tables import default_chunk_rows, open_table
from gradhess.errors import InputError

N_ROWS = 700
MAX_RESIDENT_BYTES = 320 << 20


def columns() -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "count": rng.integers(0, 9, N_ROWS),
        "size": rng.normal(size=N_ROWS),
        "flag": rng.uniform(size=N_ROWS) < 0.5,
        "y": rng.normal(size=N_ROWS),
    }


def as_array(names: tuple[str, ...] = ("count", "size", "flag")) -> npt.NDArray[np.float64]:
    table = columns()
    return np.column_stack([table[name] for name in names]).astype(np.float64)


def _write_gzip(table: Any, path: Path) -> None:
    with pa.output_stream(str(path), compression="gzip") as stream:
        pyarrow.csv.write_csv(table, stream)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "csv": pyarrow.csv.write_csv,
    "csv.gz": _write_gzip,
    "parquet": lambda table, path: pyarrow.parquet.write_table(table, path, row_group_size=100),
    "feather": pyarrow.feather.write_feather,
    "arrow": lambda table, path: pyarrow.feather.write_feather(table, path, compression="uncompressed"),
}


def read_all(source: TableSource) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    chunks = [(np.array(X, np.float64), np.array(y, np.float64)) for X, y in source]
    return np.vstack([X for X, _ in chunks]), np.concatenate([y for _, y in chunks])


def write(tmp_path: Path, table: dict[str, Any], name: str = "data.parquet") -> Path:
    path = tmp_path / name
    WRITERS[name.partition(".")[2]](pa.table(table), path)
    return path


@pytest.mark.parametrize("chunk_rows", [1, 64, 100_000, None])
@pytest.mark.parametrize("suffix", WRITERS)
def test_arrow_formats_bring_the_columns_in_chunks(
    tmp_path: Path, suffix: str, chunk_rows: int | None
) -> None:
    table = {**columns(), "text": ["a"] * N_ROWS}
    source = TableSource(open_table(write(tmp_path, table, f"data.{suffix}")), "y", chunk_rows=chunk_rows)
    assert source.feature_names == ("count", "size", "flag")
    sample = " ('a' in line 2)" if "csv" in suffix else ""
    assert source.notes == [f"columns that are not numeric are left out: text{sample}"]
    assert source.n_rows == (None if "csv" in suffix else N_ROWS)
    if chunk_rows is not None:
        assert max(X.shape[0] for X, _ in source) <= chunk_rows
    for _ in range(2):  # a source can be read again
        X, y = read_all(source)
        np.testing.assert_array_equal(X, as_array())
        np.testing.assert_array_equal(y, columns()["y"])


@pytest.mark.parametrize("mark", [";", "\t"])
def test_the_header_shows_the_separator(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"a{mark}y\n1{mark}2\n3{mark}4\n")
    X, y = read_all(TableSource(open_table(path), "y"))
    assert X.tolist() == [[1.0], [3.0]]
    assert y.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "uint64", "bool", ">f8", ">i4"])
def test_npy_of_any_order_and_dtype(tmp_path: Path, order: Any, dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(dtype, order=order)
    np.save(tmp_path / "data.npy", data)
    for target, kept in (("-1", [0, 1, 2]), ("x1", [0, 2, 3]), ("0", [1, 2, 3])):
        source = TableSource(open_table(tmp_path / "data.npy"), target, chunk_rows=7)
        X, y = read_all(source)
        assert source.feature_names == tuple(f"x{column}" for column in kept)
        np.testing.assert_array_equal(X, data[:, kept].astype(np.float64))
        np.testing.assert_array_equal(y, data[:, ({0, 1, 2, 3} - set(kept)).pop()].astype(np.float64))


def test_columns_are_chosen_by_name_or_position(tmp_path: Path) -> None:
    path = write(tmp_path, columns())
    source = TableSource(open_table(path), "-1", ["flag", "0"])
    assert source.feature_names == ("flag", "count")
    np.testing.assert_array_equal(read_all(source)[0], as_array(("flag", "count")))


def test_a_name_is_preferred_to_a_position(tmp_path: Path) -> None:
    path = write(tmp_path, {"1": [5.0, 6.0], "y": [1.0, 2.0], "0": [3.0, 4.0]})
    assert TableSource(open_table(path), "y", ["1", "0"]).feature_names == ("1", "0")


@pytest.mark.parametrize(
    ("target", "features", "message"),
    [
        ("z", None, "--target: there is no column 'z'; columns are count, size, flag, y, text, when"),
        ("siez", None, "--target: there is no column 'siez'; did you mean 'size'?"),
        ("9", None, "--target: there is no column '9'"),
        (
            "text",
            None,
            "--target: column 'text' holds text, not numbers; numeric columns are count, size, flag, y",
        ),
        ("y", ["when"], "--features: column 'when' holds times (timestamp[ms]), not numbers"),
        ("y", ["kind"], "--features: column 'kind' holds categories, not numbers"),
        ("y", ["size", "y"], "--features: 'y' is the target"),
        ("y", ["size", "size"], "--features: 'size' is given twice"),
    ],
)
def test_wrong_columns_are_explained(
    tmp_path: Path, target: str, features: list[str] | None, message: str
) -> None:
    table = pa.table(
        {
            **columns(),
            "text": ["a"] * N_ROWS,
            "when": pa.array([0] * N_ROWS, pa.timestamp("ms")),
            "kind": pa.array(["a"] * N_ROWS).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(InputError) as caught:
        TableSource(open_table(tmp_path / "data.parquet"), target, features)
    assert str(caught.value).startswith(message)


def test_the_value_that_makes_a_csv_column_text_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = ["1,2,3"] * 10 + ["N/A?,2,3", ",2,3", "1,2,3"]
    path.write_text("\n".join(["x1,x2,y", *rows]) + "\n")
    assert TableSource(open_table(path), "y").notes == [
        "columns that are not numeric are left out: x1 ('N/A?' in line 12)"
    ]
    path.write_text("\n".join(["x1,y", *(row.replace(",2", "") for row in rows)]) + "\n")
    with pytest.raises(InputError, match=r"besides the target; left out: x1 \('N/A\?' in line 12\)"):
        TableSource(open_table(path), "y")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_without_values_is_left_out(tmp_path: Path, suffix: str) -> None:
    table: dict[str, Any] = {"a": [1.0, 2.0], "empty": [None, None], "y": [1.0, 2.0]}
    source = TableSource(open_table(write(tmp_path, table, f"data.{suffix}")), "y")
    assert source.feature_names == ("a",)
    assert source.notes == ["column empty has no values and is left out"]
    two = {**table, "other": [None, None]}
    source = TableSource(open_table(write(tmp_path, two, f"data.{suffix}")), "y")
    assert source.notes == ["columns that have no values are left out: empty, other"]


def test_a_csv_column_whose_values_come_late_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("late,never,y\n" + ",,3\n" * 400_000 + "7.5,,4\n")
    source = TableSource(open_table(path), "y", drop_missing=True)
    assert source.feature_names == ("late",)
    assert read_all(source)[0].tolist() == [[7.5]]


def test_when_no_row_is_complete_the_empty_columns_are_named(tmp_path: Path) -> None:
    table: dict[str, Any] = {"a": [1.0, None], "b": [None, 1.0], "empty": [None, None], "y": [1.0, 2.0]}
    path = write(tmp_path, table, "data.csv")
    with pytest.raises(InputError, match="no rows to fit: column 'empty' has no values"):
        list(TableSource(open_table(path), "y", ["a", "empty"], chunk_rows=1, drop_missing=True))
    with pytest.raises(InputError, match="no rows to fit: each of the 2 lacks a value in some column"):
        list(TableSource(open_table(path), "y", ["a", "b"], drop_missing=True))


def test_a_csv_file_without_a_header_is_suspected(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("1.5,2,3\n2,3,4\n")
    assert "every name of a column is a number" in TableSource(open_table(path), "-1").notes[0]
    path.write_text("a,2,3\n2,3,4\n")
    assert TableSource(open_table(path), "-1").notes == []
    path.write_text("1,1,3\n2,3,4\n")
    with pytest.raises(InputError, match="called '1'; is there a line of names"):
        open_table(path)


def test_a_table_without_numeric_features_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"y": [1.0, 2.0], "text": ["a", "b"]})
    with pytest.raises(InputError, match="no numeric column besides the target"):
        TableSource(open_table(path), "y")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
@pytest.mark.parametrize("missing_in", ["count", "size", "y"])
def test_missing_values_are_named_or_dropped(tmp_path: Path, suffix: str, missing_in: str) -> None:
    table: dict[str, Any] = {name: values.tolist() for name, values in columns().items()}
    table[missing_in][333] = None
    table[missing_in][600] = None
    path = write(tmp_path, table, f"data.{suffix}")
    with pytest.raises(InputError, match=rf"column '{missing_in}' has no value in row 333 .*--drop-missing"):
        read_all(TableSource(open_table(path), "y", chunk_rows=50))
    source = TableSource(open_table(path), "y", chunk_rows=50, drop_missing=True)
    for _ in range(2):
        X, y = read_all(source)
        assert source.n_dropped == 2
        np.testing.assert_array_equal(X, np.delete(as_array(), [333, 600], axis=0))
        np.testing.assert_array_equal(y, np.delete(columns()["y"], [333, 600]))


def test_missing_values_in_columns_that_are_not_used_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 1.0]})
    assert read_all(TableSource(open_table(path), "y", ["b"]))[0].tolist() == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize("drop_missing", [False, True])
def test_infinity_is_an_error_in_any_case(tmp_path: Path, drop_missing: bool) -> None:
    data = np.ones((20, 3))
    data[13, 1] = -np.inf
    np.save(tmp_path / "data.npy", data)
    source = TableSource(open_table(tmp_path / "data.npy"), "-1", chunk_rows=6, drop_missing=drop_missing)
    with pytest.raises(
        InputError, match=r"column 'x1' is infinite in row 13 \(the first row is 0\): correct"
    ):
        read_all(source)


def test_finite_values_whose_sum_overflows_are_kept(tmp_path: Path) -> None:
    data = np.full((4, 2), 1e308)
    np.save(tmp_path / "data.npy", data)
    np.testing.assert_array_equal(
        read_all(TableSource(open_table(tmp_path / "data.npy"), "-1"))[0], data[:, :1]
    )


def test_csv_types_are_not_fixed_by_the_first_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    head = "1,,3\n" * 300_000  # more than the block that types are guessed from
    path.write_text(f"whole,empty,y\n{head}2.5,7.5,4\n")
    source = TableSource(open_table(path), "y", ["whole"])
    X, _ = read_all(source)
    assert X[0, 0] == 1.0
    assert X[-1, 0] == 2.5
    source = TableSource(open_table(path), "y", ["empty"], drop_missing=True)
    assert read_all(source)[0].tolist() == [[7.5]]
    assert source.n_dropped == 300_000


def test_text_in_a_numeric_csv_column_is_located(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,y\n" + "1,3\n" * 400_000 + "oops,4\n")
    with pytest.raises(
        InputError, match=r"column 'a' of data.csv holds 'oops' in line 400002, which is no number"
    ):
        read_all(TableSource(open_table(path), "y"))


BAD_FILES = {
    "ragged.csv": (b"a,b,y\n1,2,3\n1,2\n", "Expected 3 columns, got 2"),
    "empty.csv": (b"", "empty.csv cannot be read: .*Empty CSV"),
    "twice.csv": (b"a,a,y\n1,2,3\n", r"twice\.csv has several columns called 'a'"),
    "latin.csv": ("größe,y\n1,2\n".encode("latin1"), "not encoded as UTF-8"),
    "junk.npy": (b"junk", r"junk\.npy is no \.npy file"),
    "junk.parquet": (b"junk", r"junk\.parquet cannot be read: "),
    "junk.feather": (b"junk", r"junk\.feather cannot be read: "),
    "data.xlsx": (b"", r"data\.xlsx is of no known format; the ending must be one of \.csv, "),
    "data.npz": (b"", r"save one array as \.npy"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_explained(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_all(TableSource(open_table(tmp_path / name), "y"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"has shape \(3,\); it must be \(rows, columns\)"),
        (np.zeros((3, 0)), r"has shape \(3, 0\)"),
        (np.zeros((3, 2), complex), "has dtype complex128; it must hold real numbers"),
        (np.array([["a", "b"]]), "has dtype <U1"),
    ],
)
def test_arrays_of_the_wrong_kind_are_explained(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "data.npy", array)
    with pytest.raises(InputError, match=message):
        open_table(tmp_path / "data.npy")


def test_pickled_and_truncated_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[1, "a"]], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read as a \.npy file"):
        open_table(tmp_path / "objects.npy")
    np.save(tmp_path / "short.npy", np.zeros((100, 3)))
    os.truncate(tmp_path / "short.npy", 1000)
    with pytest.raises(InputError, match=r"cannot be read as a \.npy file"):
        open_table(tmp_path / "short.npy")


def test_a_folder_and_a_missing_file_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        open_table(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        open_table(tmp_path / "none.csv")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy"])
def test_results_have_the_same_bits_for_any_chunk_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    if suffix == "npy":
        np.save(path, np.column_stack([as_array(), columns()["y"]]))
    else:
        write(tmp_path, columns(), path.name)
    results = [fit(TableSource(open_table(path), "-1", chunk_rows=rows)) for rows in (None, 10, 333)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.coefficients, results[0].coefficients)
        np.testing.assert_array_equal(other.hc0_covariance, results[0].hc0_covariance)


def test_default_chunks_are_of_about_the_same_bytes() -> None:
    assert default_chunk_rows(8) == 1 << 17
    assert default_chunk_rows(1024) == 1024
    assert default_chunk_rows(10**6) == 256


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_only_a_part_of_a_file_is_in_memory(tmp_path: Path, suffix: str) -> None:
    n_rows = 200_000
    values = np.random.default_rng(0).normal(size=(12, n_rows))  # 19 MB
    table = pa.table({f"c{j}": values[j] for j in range(12)})
    path = tmp_path / f"data.{suffix}"
    if suffix == "parquet":  # all rows in one group, in small pages
        pyarrow.parquet.write_table(
            table, path, row_group_size=n_rows, use_dictionary=False, data_page_size=1 << 15
        )
    else:  # in batches of 65,536 rows
        pyarrow.feather.write_feather(table, path)
    del table
    before = pa.total_allocated_bytes()
    held = []
    for X, _ in TableSource(open_table(path), "c11", chunk_rows=5000):
        assert X.shape[0] <= 5000
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) >= n_rows // 5000
    assert max(held) < 10_000_000


@pytest.mark.skipif(not hasattr(npy_table.mmap, "MADV_DONTNEED"), reason="this system cannot give pages back")
@pytest.mark.parametrize("order", ["C", "F"])
def test_pages_that_were_read_are_given_back(tmp_path: Path, order: Any) -> None:
    data = np.asarray(np.ones((160_000, 20)), order=order)  # 25.6 MB
    np.save(tmp_path / "data.npy", data)
    table = NpyTable(tmp_path / "data.npy")
    during = []
    total = 0.0
    for X, _ in table.read(range(19), 19, 8000):
        total += float(X.sum())
        during.append(_resident_bytes(tmp_path / "data.npy"))
    assert total == 19 * 160_000
    assert _resident_bytes(tmp_path / "data.npy") == 0
    if order == "C":  # a chunk is 1.3 MB, and the system maps up to a huge page on both sides
        assert 0 < max(during) < 8_000_000


def _resident_bytes(path: Path) -> int:
    """Bytes of a mapped file in the resident memory of this process (Linux)."""
    total, inside = 0, False
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if "-" in line.split(" ", 1)[0] and not line.split(" ", 1)[0].endswith(":"):
                inside = line.rstrip().endswith(str(path))
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="measures resident memory as Linux reports it")
def test_a_file_larger_than_the_memory_it_may_use_streams(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    shape = (9_600_000, 8)  # 614 MB, of which only the first and last pages are on the disk
    large = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
    rng = np.random.default_rng(0)
    large[:500] = rng.normal(size=(500, 8))
    large[-500:] = rng.normal(size=(500, 8))
    large.flush()
    del large
    # The peak that the kernel reports for a child also counts its parent before the exec; VmHWM does not.
    code = (
        "import atexit\n"
        "@atexit.register\n"
        "def report():\n"
        "    print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
        "from gradhess.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", str(path), "--target", "-1"],
        env={**os.environ, "GRADHESS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "9,600,000 rows" in done.stdout
    peak = int(done.stdout.rpartition("VmHWM:")[2].split()[0]) * 1024
    assert peak < MAX_RESIDENT_BYTES
