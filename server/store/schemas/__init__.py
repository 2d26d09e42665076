"""What the database has of schemas: the tables as they are, the versions that were deployed, and how one follows another."""
