from django.urls import include, path

from testproject.culprits import views

urlpatterns = [
    path("bookings/<int:pk>/", views.book),
    path("invoices/<int:pk>/pay/", views.pay),
    path("prices/<int:pk>/follow/", views.follow),
    path("", include("testproject.urls")),
]
