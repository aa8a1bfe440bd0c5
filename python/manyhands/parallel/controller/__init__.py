"""Names that ipyparallel has here. The controller itself is in C: `manyhands controller`."""
