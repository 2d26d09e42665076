"""How far Google's own APIs are served as Google's own clients expect: `make conformance`."""
