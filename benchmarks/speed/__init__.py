"""Speed of hklflow and of its peers on the same simulated scan: `make bench`.

`data` simulates the scan, `ours` and `peers` do the work (each measurement in a process of its
own), `roofline` measures what the machine can do, `agree` shows that all did the same work,
`jobs` lists the contenders, `__main__` runs them in turn and `table` writes the tables.
"""
