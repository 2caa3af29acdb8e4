"""Reads a block with pyarrow and with DuckDB and prints what both see, one line per span, for the test to compare."""
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

path = sys.argv[1]

COLUMNS = [
    "trace_id", "span_id", "parent_span_id", "desc", "pdelta", "trace_start", "start", "start_s", "duration", "dur_b",
    "kind", "status_code", "name", "service", "resource_id", "root_name", "status_message", "events",
    "span.http.method", "span.http.status_code", "span.request.id", "span.ratio", "span.cached", "attributes_tail",
]


def show(value):
    if value is None:
        return "-"
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6f}"
    return str(value)


file = pq.ParquetFile(path, page_checksum_verification=True)
table = file.read()
for name in table.column_names:
    column = table.column(name)
    assert len(column) == table.num_rows, name
    column.validate(full=True)
assert pa.types.is_dictionary(table.schema.field("service").type), "the embedded Arrow schema is used"
for group in range(file.metadata.num_row_groups):
    for i in range(file.metadata.num_columns):
        assert file.metadata.row_group(group).column(i).has_offset_index
columns = [table.column(name) for name in COLUMNS]
columns[COLUMNS.index("trace_start")] = table.column("trace_start").cast(pa.int64())
print("== pyarrow")
for row in zip(*[c.to_pylist() for c in columns]):
    print(" ".join(show(v) for v in row))

selected = ", ".join(
    "epoch_ns(trace_start) AS trace_start" if name == "trace_start" else f'"{name}"' for name in COLUMNS
)
print("== duckdb")
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
for row in connection.execute(f"SELECT {selected} FROM read_parquet('{path}')").fetchall():
    print(" ".join(show(v) for v in row))
every = connection.execute(f"SELECT COUNT(COLUMNS(*)) FROM read_parquet('{path}')").fetchall()
assert len(every[0]) == len(table.column_names)
