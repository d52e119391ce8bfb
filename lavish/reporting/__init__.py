"""Records of runs, statistics, comparison, tables and figures."""
