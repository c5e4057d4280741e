from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from django_dbpool.admin import reserved_view


def alive(request: HttpRequest) -> HttpResponse:
    """Say that the process answers; asks the database nothing."""
    return HttpResponse("ok\n", content_type="text/plain")


urlpatterns = [
    path("", RedirectView.as_view(pattern_name="reports:index")),
    path("alive/", alive),
    path("reports/", include("testproject.reports.urls")),
    path("dbpool/", include("django_dbpool.urls")),
    path("admin/login/", reserved_view(admin.site.login)),  # who comes to help must be let in while the pool is full
    path("admin/", admin.site.urls),
    # The admin's style sheets, also without DEBUG: the project runs on loopback, with no web server in front.
    re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True}),
]
