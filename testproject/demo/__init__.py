"""`python -m testproject.demo`: both pools under the same load, then a site to look at."""
