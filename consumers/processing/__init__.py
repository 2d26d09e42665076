"""What becomes of a file's bytes once they have arrived: looked at, measured, shown smaller, or refused.

Nothing here knows S3, Postgres or the broker. `child.py` runs in a process of its own for each file, with limits, no
settings and no secrets; `isolation.py` starts it and reads what it wrote.
"""
