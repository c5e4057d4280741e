from django.urls import include, path

from testproject.webhooks import views

urlpatterns = [
    path("", include("testproject.urls")),
    path("webhooks/", views.receive),
    path("webhooks/totals/", views.totals),
    path("webhooks/connections/", views.connections),
]
