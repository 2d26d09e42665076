"""Rules: CEL expressions of a schema that say who may do what.

source (an option's text) → `checking` (Google's CEL parses and type-checks it) → `lowering` (a small closed tree;
whatever both compilers do not know is refused here) → `predicate` (Python, over one row) and `sql` (a WHERE over many).
"""
