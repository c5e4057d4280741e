"""
The Celery application of the test project: `celery -A testproject.celery worker`. Its settings are those of Django that
begin with CELERY_; without a broker there is none.
"""

from celery import Celery

app = Celery("testproject", set_as_current=False)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.set_default()
