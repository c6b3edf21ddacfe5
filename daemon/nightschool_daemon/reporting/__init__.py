"""The track record of a specialty, and the page that people read in the morning.

`records`, `words` and `sheet` are light: the daemon puts sentences together. `track`, `plots` and `job` belong to a
worker; `page` to whoever writes HTML.
"""
