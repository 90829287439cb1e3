"""Long work made of tasks: kept as it finishes, shared among workers, stopped and resumed."""
