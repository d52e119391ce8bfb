"""Official data set layouts, one reader each."""
