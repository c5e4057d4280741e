"""The incidents: each reproduces what a team reported, on Django's stock engine and on ours."""
