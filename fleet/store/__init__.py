"""The coordinator's database: its tables, transactions, and how older ones are brought up to date."""
