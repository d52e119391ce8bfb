"""The composer: synthetic data sets in official layouts."""
