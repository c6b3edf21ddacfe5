"""What `make bench-learning` is made of: components, pools, cells, what is measured of them and what follows."""
