"""Where the pages are."""

ADMIN = "/admin/django_dbpool/connectionpool/"

PAGES = {
    "overview": ADMIN,
    "processes": f"{ADMIN}processes/",
    "holders": f"{ADMIN}holders/",
    "operations": f"{ADMIN}operations/",
    "statements": f"{ADMIN}statements/",
    "alerts": f"{ADMIN}alerts/",
    "advice": f"{ADMIN}advice/",
}

POOLS = "/dbpool/pools"
STATUS = "/dbpool/status"
