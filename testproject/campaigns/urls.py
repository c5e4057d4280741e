from django.urls import include, path

from testproject.campaigns import views

urlpatterns = [
    path("", include("testproject.urls")),
    path("campaigns/<int:pk>/", views.campaign),
    path("campaigns/opened/<int:pk>/", views.opened),
]
