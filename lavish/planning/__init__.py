"""From configuration to named runs, data sets, weights and tables. Imports neither torch nor Snakemake."""
