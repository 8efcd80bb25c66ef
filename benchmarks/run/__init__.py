"""Running the grid: cells and analyses in parallel processes, one cell over many ranks, and the
evaluation of any checkpoint. Only the command line, perf and reliability stand above."""
