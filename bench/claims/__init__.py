"""What textbooks say about machines and containers, as predicates on effects; judged by samples alone."""
