"""Many rows by few statements."""

from __future__ import annotations

import sqlite3

import pytest

from crawler.broker.rows import ROWS, insert


@pytest.mark.parametrize("count", [0, 1, 2, 37, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
def test_any_number_of_rows_is_inserted_in_order(count: int) -> None:
    """No row is lost or comes twice, whatever the number is made up of."""
    rows = [(count - number, f"row {number}") for number in range(count)]
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE some(a, b)")
    insert(db, "INSERT INTO some", rows)
    assert db.execute("SELECT a, b FROM some ORDER BY rowid").fetchall() == rows
    db.close()
