import os

from django.core.asgi import get_asgi_application

from django_dbpool.asgi import lifespan

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")

application = lifespan(get_asgi_application())
