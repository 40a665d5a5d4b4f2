"""Laws of a study or of any table: fitted, written, read back, asked."""
