from django.urls import path

from . import views

urlpatterns = [
    path("notes/", views.notes),
    path("invoices/", views.invoices),
    path("invoices-async/", views.invoices_async),
    path("export/", views.export),
]
