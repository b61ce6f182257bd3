"""The page: drop X-rays, read answers. `serve` starts it."""
