"""One file for each command of the table in `buscli.table`."""
