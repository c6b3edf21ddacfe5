"""The loopback proxy: a share of an alias's use goes to another version. A process of its own, off by default.

`server` is that process. What the daemon needs of it (`routes`, `conversation`, `answers`, `keeper`) imports the
standard library only.
"""
