"""What a request costs: Transom as it is run, beside a bare grpcio server behind the same edge, beside PocketBase.

`make bench`, or `python -m bench --help`. The method and how to read it: docs/performance.md.
"""
