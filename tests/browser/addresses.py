"""Where the pages are."""

ADMIN = "/admin/django_dbpool/connectionpool/"

PAGES = {
    "overview": ADMIN,
    "processes": f"{ADMIN}processes/",
    "holders": f"{ADMIN}holders/",
    "operations": f"{ADMIN}operations/",
    "batches": f"{ADMIN}batches/",
    "statements": f"{ADMIN}statements/",
    "alerts": f"{ADMIN}alerts/",
    "advice": f"{ADMIN}advice/",
}

BATCH = f"{ADMIN}batch/"
POOLS = "/dbpool/pools"
STATUS = "/dbpool/status"
