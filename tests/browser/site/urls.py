from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path, re_path

from django_dbpool.admin import reserved_view

from . import views

urlpatterns = [
    path("alive/", views.alive),
    path("items/", views.items),
    path("orders/<int:pk>/pay/", views.pay),
    path("reports/<int:year>/", views.report),
    path("search/", views.search),
    path("authors/", views.authors),
    path("dbpool/", include("django_dbpool.urls")),
    path("admin/login/", reserved_view(admin.site.login)),
    path("admin/", admin.site.urls),
    re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True}),
]
