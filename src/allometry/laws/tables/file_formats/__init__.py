"""Files as tables: delimited text, JSON of every usual shape, Parquet."""
