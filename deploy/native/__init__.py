"""Transom's whole topology as local processes: real servers on loopback, kept running by a small supervisor.

Kept apart from the product: nothing here is imported by what runs in production, and nothing of the product is
imported here. `stack.Stack` is the way in.
"""
