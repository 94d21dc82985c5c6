"""Mesurer : comparer des stratégies de décodage, regarder une distribution."""
