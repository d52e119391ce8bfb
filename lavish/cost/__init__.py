"""Parameters and multiply-adds, counted by fvcore."""
