"""The results page: every table and every run as a folder of static files that a browser opens from the disk.

The cells are those of :mod:`lavish.reporting.columns`, so the page and the Markdown say the same. Tables are plain
HTML. DataTables, which itables ships, sorts and filters them; Vega-Lite, which vl-convert ships, draws. `files/site.js`
wires the two together.
"""
